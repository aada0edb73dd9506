import { azureError } from "./cloud-error.ts";
import type { CloudRequest, Created } from "./cloud-request.ts";
import { bytesOf, guidOf, type Properties } from "./values.ts";

/** @pulumi/random, with the same "random" values every time. */
export function createRandom({ type, name, inputs }: CloudRequest): Created {
  const create = GENERATORS[type];
  if (!create)
    throw azureError(
      "NotRehearsed",
      `the rehearsal does not know the resource type ${type}; teach infra/rehearsal/random.ts`,
    );
  const outputs = { ...inputs, ...create(name, inputs) };
  return { id: String(outputs.id ?? outputs.result ?? "none"), outputs, uses: [] };
}

const GENERATORS: Readonly<Record<string, (name: string, inputs: Properties) => Properties>> = {
  "random:index/randomString:RandomString": text,
  "random:index/randomPassword:RandomPassword": (name, inputs) => ({
    ...text(name, inputs),
    id: "none",
    bcryptHash: "",
  }),
  "random:index/randomBytes:RandomBytes": (name, inputs) => {
    const bytes = bytesOf(lengthOf(inputs), "bytes", name);
    return { base64: bytes.toString("base64"), hex: bytes.toString("hex"), id: bytes.toString("base64") };
  },
  "random:index/randomId:RandomId": (name, inputs) => {
    const bytes = bytesOf(Number(inputs.byteLength), "id", name);
    return {
      hex: bytes.toString("hex"),
      b64Url: bytes.toString("base64url"),
      b64Std: bytes.toString("base64"),
      id: bytes.toString("base64url"),
    };
  },
  "random:index/randomUuid:RandomUuid": (name) => ({ result: guidOf("uuid", name) }),
};

function lengthOf(inputs: Properties): number {
  const length = Number(inputs.length);
  if (!(Number.isInteger(length) && length >= 1)) {
    throw azureError(
      "InvalidAttributeValue",
      `Attribute length value must be at least 1, got: ${String(inputs.length)}`,
    );
  }
  return length;
}

function text(name: string, inputs: Properties): Properties {
  const kinds = [
    { characters: "abcdefghijklmnopqrstuvwxyz", on: inputs.lower !== false, least: Number(inputs.minLower ?? 0) },
    { characters: "ABCDEFGHIJKLMNOPQRSTUVWXYZ", on: inputs.upper !== false, least: Number(inputs.minUpper ?? 0) },
    {
      characters: "0123456789",
      on: (inputs.numeric ?? inputs.number) !== false,
      least: Number(inputs.minNumeric ?? 0),
    },
    {
      characters: String(inputs.overrideSpecial ?? "!@#$%&*()-_=+[]{}<>:?"),
      on: inputs.special !== false,
      least: Number(inputs.minSpecial ?? 0),
    },
  ].filter((kind) => kind.on || kind.least > 0);
  const length = lengthOf(inputs);
  const all = kinds
    .filter((kind) => kind.on)
    .map((kind) => kind.characters)
    .join("");
  const bytes = bytesOf(length * 2, "text", name);
  const pick = (characters: string, i: number) => characters[bytes.readUInt16BE(i * 2) % characters.length] ?? "";
  const required = kinds.flatMap((kind) => Array.from({ length: kind.least }, () => kind.characters));
  if (required.length > length) {
    throw azureError(
      "InvalidAttributeCombination",
      `The password/string length (${length}) must be >= min_upper + min_lower + min_numeric + min_special (${required.length}).`,
    );
  }
  // The required kinds first, then anything: as good as any other order where nothing is random.
  return { result: Array.from({ length }, (_, i) => pick(required[i] ?? all, i)).join("") };
}
