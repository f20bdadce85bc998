"""Kinds of subjects: which of MMLU's and C-Eval's subjects a column of Tables 13 and 14 averages.

Report §A.2.1, Tables 13 and 14. The groups are those of the sets' own papers (Hendrycks et al. 2021; Huang et al. 2023);
C-Eval Hard is its eight subjects of advanced mathematics, physics and chemistry.
"""

from __future__ import annotations

_MMLU = {
    "STEM": """abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science
        college_mathematics college_physics computer_security conceptual_physics electrical_engineering
        elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science
        high_school_mathematics high_school_physics high_school_statistics machine_learning""",
    "Social Sciences": """econometrics high_school_geography high_school_government_and_politics
        high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality
        professional_psychology public_relations security_studies sociology us_foreign_policy""",
    "Humanities": """formal_logic high_school_european_history high_school_us_history high_school_world_history
        international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory
        professional_law world_religions""",
    "Others": """business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing
        medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology""",
}
_CEVAL = {
    "Avg. (Hard)": """advanced_mathematics discrete_mathematics probability_and_statistics college_chemistry
        college_physics high_school_mathematics high_school_chemistry high_school_physics""",
    "STEM": """advanced_mathematics college_chemistry college_physics college_programming computer_architecture
        computer_network discrete_mathematics electrical_engineer high_school_biology high_school_chemistry
        high_school_mathematics high_school_physics metrology_engineer middle_school_biology
        middle_school_chemistry middle_school_mathematics middle_school_physics operating_system
        probability_and_statistics veterinary_medicine""",
    "Social Sciences": """business_administration college_economics education_science high_school_geography
        high_school_politics mao_zedong_thought marxism middle_school_geography middle_school_politics
        teacher_qualification""",
    "Humanities": """art_studies chinese_language_and_literature high_school_chinese high_school_history
        ideological_and_moral_cultivation law legal_professional logic middle_school_history
        modern_chinese_history professional_tour_guide""",
    "Others": """accountant basic_medicine civil_servant clinical_medicine
        environmental_impact_assessment_engineer fire_engineer physician plant_protection sports_science
        tax_accountant urban_and_rural_planner""",
}
# Task -> column -> subjects.
PARTS: dict[str, dict[str, frozenset[str]]] = {
    task: {column: frozenset(names.split()) for column, names in groups.items()}
    for task, groups in {"mmlu": _MMLU, "ceval": _CEVAL}.items()
}
