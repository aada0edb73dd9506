/** An IPv4 range: first and last address as numbers. */
export interface Range {
  readonly text: string;
  readonly first: number;
  readonly last: number;
  readonly bits: number;
}

/** Reads `a.b.c.d/n`; undefined when it is no such range or has bits set behind its prefix. */
export function parseRange(text: string): Range | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(text);
  if (!match) return undefined;
  const octets = match.slice(1, 5).map(Number);
  const bits = Number(match[5]);
  if (octets.some((octet) => octet > 255) || bits > 32) return undefined;
  const first = octets.reduce((sum, octet) => sum * 256 + octet, 0);
  const size = 2 ** (32 - bits);
  return first % size === 0 ? { text, first, last: first + size - 1, bits } : undefined;
}

export function parseAddress(text: string): number | undefined {
  return parseRange(`${text}/32`)?.first;
}

export function contains(outer: Range, inner: Range): boolean {
  return outer.first <= inner.first && inner.last <= outer.last;
}

export function overlap(a: Range, b: Range): boolean {
  return a.first <= b.last && b.first <= a.last;
}
