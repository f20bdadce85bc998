// The names of LaTeX's symbols, for math.js.

const pairs = (text) =>
  Object.fromEntries(
    text
      .trim()
      .split(/\s+/)
      .map((pair) => pair.split("=")),
  );

export const IDENTIFIERS = pairs(`
  alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι kappa=κ
  lambda=λ mu=μ nu=ν xi=ξ omicron=ο pi=π varpi=ϖ rho=ρ varrho=ϱ sigma=σ varsigma=ς tau=τ upsilon=υ phi=ϕ
  varphi=φ chi=χ psi=ψ omega=ω Gamma=Γ Delta=Δ Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Upsilon=Υ Phi=Φ Psi=Ψ
  Omega=Ω infty=∞ partial=∂ nabla=∇ ell=ℓ hbar=ℏ imath=ı jmath=ȷ Re=ℜ Im=ℑ aleph=ℵ beth=ℶ wp=℘ emptyset=∅
  varnothing=∅ angle=∠ triangle=△ square=□ Box=□ blacksquare=■ degree=° top=⊤ bot=⊥ forall=∀ exists=∃
  nexists=∄ prime=′ checkmark=✓ dagger=† bigstar=★ clubsuit=♣ diamondsuit=♢ heartsuit=♡ spadesuit=♠
  pounds=£ S=§ P=¶ cdots=⋯ ldots=… dots=… dotsc=… dotsb=⋯ dotsm=⋯ vdots=⋮ ddots=⋱ $=$ %=% #=# &=& _=_
  backslash=\\ eth=ð hslash=ℏ complement=∁ mho=℧ flat=♭ natural=♮ sharp=♯ measuredangle=∡
`);

export const OPERATORS = pairs(`
  times=× cdot=⋅ div=÷ pm=± mp=∓ ast=∗ star=⋆ circ=∘ bullet=∙ oplus=⊕ ominus=⊖ otimes=⊗ oslash=⊘ odot=⊙
  wedge=∧ land=∧ vee=∨ lor=∨ cap=∩ cup=∪ sqcap=⊓ sqcup=⊔ uplus=⊎ setminus=∖ smallsetminus=∖ wr=≀ diamond=⋄
  amalg=⨿ bigcirc=◯ neg=¬ lnot=¬ le=≤ leq=≤ leqslant=⩽ ge=≥ geq=≥ geqslant=⩾ ne=≠ neq=≠ ll=≪ gg=≫ lt=<
  gt=> equiv=≡ approx=≈ sim=∼ simeq=≃ cong=≅ propto=∝ doteq=≐ asymp=≍ prec=≺ succ=≻ preceq=⪯ succeq=⪰
  subset=⊂ supset=⊃ subseteq=⊆ supseteq=⊇ subsetneq=⊊ supsetneq=⊋ in=∈ notin=∉ ni=∋ mid=∣ nmid=∤
  parallel=∥ nparallel=∦ perp=⟂ vdash=⊢ dashv=⊣ models=⊨ vDash=⊨ triangleq=≜ coloneqq=≔ lesssim=≲ gtrsim=≳
  nleq=≰ ngeq=≱ nless=≮ ngtr=≯ bowtie=⋈ smile=⌣ frown=⌢ ltimes=⋉ rtimes=⋊ because=∵ therefore=∴ colon=:
  approxeq=≊ to=→ gets=← rightarrow=→ leftarrow=← leftrightarrow=↔ Rightarrow=⇒ Leftarrow=⇐
  Leftrightarrow=⇔ iff=⟺ implies=⟹ impliedby=⟸ longrightarrow=⟶ longleftarrow=⟵ longleftrightarrow=⟷
  Longrightarrow=⟹ Longleftarrow=⟸ Longleftrightarrow=⟺ mapsto=↦ longmapsto=⟼ hookrightarrow=↪
  hookleftarrow=↩ uparrow=↑ downarrow=↓ updownarrow=↕ Uparrow=⇑ Downarrow=⇓ nearrow=↗ searrow=↘ swarrow=↙
  nwarrow=↖ rightleftharpoons=⇌ leftharpoonup=↼ rightharpoonup=⇀ leadsto=⇝ rightsquigarrow=⇝ nrightarrow=↛
  lbrace={ rbrace=} {={ }=} |=‖ Vert=‖ lVert=‖ rVert=‖ vert=| lvert=| rvert=| langle=⟨ rangle=⟩ lfloor=⌊
  rfloor=⌋ lceil=⌈ rceil=⌉ lbrack=[ rbrack=] lgroup=⟮ rgroup=⟯ ulcorner=⌜ urcorner=⌝ trianglelefteq=⊴
  triangleleft=◃ triangleright=▹ unlhd=⊴
`);

export const BIG = pairs(`
  sum=∑ prod=∏ coprod=∐ int=∫ iint=∬ iiint=∭ oint=∮ oiint=∯ bigcup=⋃ bigcap=⋂ bigvee=⋁ bigwedge=⋀
  bigoplus=⨁ bigotimes=⨂ bigodot=⨀ biguplus=⨄ bigsqcup=⨆
`);

export const FUNCTIONS = new Set(
  "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp arg deg dim hom ker sgn".split(
    " ",
  ),
);

// Functions whose index stands below in displayed formulas.
export const LIMITS = pairs(
  "lim=lim max=max min=min sup=sup inf=inf det=det gcd=gcd Pr=Pr argmax=argmax argmin=argmin",
);
LIMITS.limsup = "lim sup";
LIMITS.liminf = "lim inf";

export const SPACES = {
  quad: "1em",
  qquad: "2em",
  ",": "0.17em",
  thinspace: "0.17em",
  ":": "0.22em",
  ">": "0.22em",
  ";": "0.28em",
  " ": "0.33em",
  "\n": "0.33em",
  enspace: "0.5em",
  enskip: "0.5em",
  "!": "0em",
  negthinspace: "0em",
  space: "0.33em",
  "/": "0em",
};

// mark, above the argument, stretches with it
export const ACCENTS = {
  hat: ["^", true],
  widehat: ["^", true, true],
  bar: ["¯", true],
  overline: ["¯", true, true],
  vec: ["→", true],
  tilde: ["~", true],
  widetilde: ["~", true, true],
  dot: ["˙", true],
  ddot: ["¨", true],
  dddot: ["⃛", true],
  check: ["ˇ", true],
  breve: ["˘", true],
  acute: ["´", true],
  grave: ["`", true],
  mathring: ["˚", true],
  overrightarrow: ["→", true, true],
  overleftarrow: ["←", true, true],
  overleftrightarrow: ["↔", true, true],
  underline: ["_", false, true],
  overbrace: ["⏞", true, true],
  underbrace: ["⏟", false, true],
};

export const FONTS = {
  mathbb: "double",
  mathbf: "bold",
  boldsymbol: "bolditalic",
  bm: "bolditalic",
  pmb: "bolditalic",
  mathcal: "script",
  mathscr: "script",
  mathfrak: "fraktur",
  mathsf: "sans",
  mathtt: "mono",
  mathrm: "normal",
  mathit: "italic",
  mathnormal: "italic",
  mathbin: null,
  mathrel: null,
  mathord: null,
  Bbb: "double",
  ensuremath: null,
};

// Unicode's mathematical alphabets: the first capital, small letter and digit of each, and the letters that
// stand elsewhere.
const ALPHABETS = {
  bold: [0x1d400, 0x1d41a, 0x1d7ce],
  bolditalic: [0x1d468, 0x1d482, 0x1d7ce],
  double: [0x1d538, 0x1d552, 0x1d7d8],
  script: [0x1d49c, 0x1d4b6],
  fraktur: [0x1d504, 0x1d51e],
  sans: [0x1d5a0, 0x1d5ba, 0x1d7e2],
  mono: [0x1d670, 0x1d68a, 0x1d7f6],
};
const ELSEWHERE = {
  double: { C: "ℂ", H: "ℍ", N: "ℕ", P: "ℙ", Q: "ℚ", R: "ℝ", Z: "ℤ" },
  script: { B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ", e: "ℯ", g: "ℊ", o: "ℴ" },
  fraktur: { C: "ℭ", H: "ℌ", I: "ℑ", R: "ℜ", Z: "ℨ" },
};
const GREEK = { bold: [0x1d6a8, 0x1d6c2], bolditalic: [0x1d71c, 0x1d736] };

/** A letter or digit in one of the alphabets; itself where the alphabet has none. */
export function styled(letter, font) {
  const found = ELSEWHERE[font]?.[letter];
  if (found) return found;
  const code = letter.codePointAt(0);
  const [capital, small, digit] = ALPHABETS[font] ?? [];
  const [greekCapital, greekSmall] = GREEK[font] ?? [];
  const moved =
    (capital && shift(code, 0x41, 0x5a, capital)) ||
    (small && shift(code, 0x61, 0x7a, small)) ||
    (digit && shift(code, 0x30, 0x39, digit)) ||
    (greekCapital && shift(code, 0x391, 0x3a9, greekCapital)) ||
    (greekSmall && shift(code, 0x3b1, 0x3c9, greekSmall));
  return moved ? String.fromCodePoint(moved) : letter;
}

const shift = (code, first, last, start) => (code >= first && code <= last ? start + code - first : 0);
