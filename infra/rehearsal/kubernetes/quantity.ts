const SUFFIXES: Readonly<Record<string, number>> = {
  n: 1e-9,
  u: 1e-6,
  m: 1e-3,
  "": 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  E: 1e18,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
};

/** The number that a Kubernetes quantity stands for (`250m`, `1Gi`); undefined for other values. */
export function quantity(value: unknown): number | undefined {
  if (typeof value === "number") return value;
  const match = typeof value === "string" ? /^([+-]?[0-9.]+(?:e[+-]?\d+)?)([a-zA-Z]*)$/i.exec(value) : null;
  const factor = SUFFIXES[match?.[2] ?? "?"];
  return match?.[1] === undefined || factor === undefined ? undefined : Number(match[1]) * factor;
}
