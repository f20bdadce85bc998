"""The run's page: one self-contained HTML file with the report's figures and tables, ours beside the published."""
