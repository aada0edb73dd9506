import { runtime } from "@pulumi/pulumi";
import { isProperties, type Properties } from "./values.ts";

/** What stands in a plan where a secret was. */
export const SECRET = "[secret]";
/** What stands in a plan for a value that depends on something refused. */
export const UNKNOWN = "[unknown]";

/** A value off the wire, taken apart. */
export interface Decoded {
  /** Secrets unwrapped, references replaced by ids. */
  readonly value: unknown;
  /** The same with secrets masked where they stand. */
  readonly masked: unknown;
  /** Text found inside secrets. */
  readonly secrets: readonly string[];
  readonly hasUnknown: boolean;
}

const { specialSigKey, specialSecretSig, specialResourceSig, unknownValue } = runtime;

/** Takes a value apart that Pulumi's runtime has serialised. */
export function decode(raw: unknown): Decoded {
  if (raw === unknownValue) return { value: undefined, masked: UNKNOWN, secrets: [], hasUnknown: true };
  if (Array.isArray(raw)) {
    const items = raw.map(decode);
    return {
      value: items.map((item) => item.value),
      masked: items.map((item) => item.masked),
      secrets: items.flatMap((item) => item.secrets),
      hasUnknown: items.some((item) => item.hasUnknown),
    };
  }
  if (!isProperties(raw)) return { value: raw, masked: raw, secrets: [], hasUnknown: false };
  const signature = raw[specialSigKey];
  if (signature === specialSecretSig) {
    const inner = decode(raw.value);
    return { ...inner, masked: maskedLeaves(inner.value), secrets: textsIn(inner.value) };
  }
  if (signature === specialResourceSig) {
    // A custom resource has an id, a component only a URN.
    const id = raw.id === undefined || raw.id === "" ? raw.urn : raw.id;
    return decode(id);
  }
  const entries = Object.entries(raw)
    .filter(([key]) => key !== specialSigKey)
    .map(([key, value]) => [key, decode(value)] as const);
  return {
    value: Object.fromEntries(entries.map(([key, item]) => [key, item.value])),
    masked: Object.fromEntries(entries.map(([key, item]) => [key, item.masked])),
    secrets: entries.flatMap(([, item]) => item.secrets),
    hasUnknown: entries.some(([, item]) => item.hasUnknown),
  };
}

/** A secret object keeps its keys: which there are is no secret, and readers want to know. */
function maskedLeaves(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(maskedLeaves);
  if (!isProperties(value)) return SECRET;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, maskedLeaves(inner)]));
}

/** Wraps a value so that Pulumi's runtime takes it for a secret. */
export function asSecret(value: unknown): Properties {
  return { [specialSigKey]: specialSecretSig, value };
}

export function textsIn(value: unknown): string[] {
  if (typeof value === "string") return [value];
  if (Array.isArray(value)) return value.flatMap(textsIn);
  return isProperties(value) ? Object.values(value).flatMap(textsIn) : [];
}

/**
 * Shorter texts are masked where they stand, but not wherever else they turn up: "true" and "admin" inside a secret
 * object would make half a plan unreadable.
 */
const LEAST_LENGTH = 8;

/** Credentials come in one object with the host that they are for, which is no secret. */
const HOST = /^[a-z0-9-]+(\.[a-z0-9-]+)*\.(azurecr\.io|azure\.com|azure\.net|windows\.net|svc|local)$/;

/** Everything that must not leave the process, however it is spelled. */
export class Secrets {
  readonly #texts = new Set<string>();
  readonly #public = new Set<string>();

  add(texts: Iterable<string>): void {
    for (const text of texts) if (text.length >= LEAST_LENGTH && !HOST.test(text)) this.#texts.add(text);
  }

  /** Names, which a secret object may repeat and which are none. */
  allow(texts: Iterable<string>): void {
    for (const text of texts) this.#public.add(text);
  }

  /** The value with every text masked that is a secret or merely contains one, plain or encoded. */
  mask(value: unknown): unknown {
    const forms = [...this.#texts].filter((text) => !this.#public.has(text)).flatMap(formsOf);
    const walk = (inner: unknown): unknown => {
      if (typeof inner === "string") return forms.some((form) => inner.includes(form)) ? SECRET : inner;
      if (Array.isArray(inner)) return inner.map(walk);
      if (!isProperties(inner)) return inner;
      return Object.fromEntries(Object.entries(inner).map(([key, item]) => [String(walk(key)), walk(item)]));
    };
    return walk(value);
  }
}

function formsOf(text: string): string[] {
  const bytes = Buffer.from(text);
  return [
    ...new Set([
      text,
      // Padding depends on what stands around it.
      bytes.toString("base64").replace(/=+$/, ""),
      bytes.toString("base64url"),
      bytes.toString("hex"),
      encodeURIComponent(text),
      JSON.stringify(text).slice(1, -1),
    ]),
  ];
}
