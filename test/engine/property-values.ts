import { specialSecretSig, specialSigKey, unknownValue } from "@pulumi/pulumi/runtime/rpc.js";
import { isProperties, type Properties } from "../../infra/rehearsal/values.ts";

// Properties cross the wire as JSON, with an envelope around each secret and one text that stands for "unknown".

/** What the engine reads as "known only after the resource exists". */
export const UNKNOWN: string = unknownValue;

function isSecret(value: unknown): value is Properties & { value: unknown } {
  return isProperties(value) && value[specialSigKey] === specialSecretSig;
}

function secret(value: unknown): Properties {
  return { [specialSigKey]: specialSecretSig, value };
}

/** The same without the secrets' envelopes, as a cloud's API sees it. */
export function unwrapped(value: unknown): unknown {
  if (isSecret(value)) return unwrapped(value.value);
  if (Array.isArray(value)) return value.map(unwrapped);
  if (isProperties(value)) return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, unwrapped(v)]));
  return value;
}

export function unwrappedProperties(value: Properties): Properties {
  const plain = unwrapped(value);
  return isProperties(plain) ? plain : {};
}

function containsSecret(value: unknown): boolean {
  if (isSecret(value)) return true;
  return (Array.isArray(value) ? value : isProperties(value) ? Object.values(value) : []).some(containsSecret);
}

export function containsUnknown(value: unknown): boolean {
  if (value === UNKNOWN) return true;
  return (Array.isArray(value) ? value : isProperties(value) ? Object.values(value) : []).some(containsUnknown);
}

/** Outputs of which every property that came in with a secret goes out as one, as providers do. */
export function withSecretsOf(inputs: Properties, outputs: Properties): Properties {
  return Object.fromEntries(
    Object.entries(outputs).map(([key, value]) => [key, containsSecret(inputs[key]) ? secret(value) : value]),
  );
}

/** Sets a value deep inside, on objects that are there: `setWithin(outputs, "dnsSettings.fqdn", UNKNOWN)`. */
export function setWithin(properties: Properties, path: string, value: unknown): void {
  const keys = path.split(".");
  const last = keys.pop();
  let inner: unknown = properties;
  for (const key of keys) inner = isProperties(inner) ? inner[key] : undefined;
  if (last !== undefined && isProperties(inner) && inner[last] === undefined) inner[last] = value;
}
