import fc from "fast-check";
import { expect, test } from "vitest";
import { jsonPieces } from "../../server/mcp/json-pieces.ts";

const long = fc
  .tuple(
    fc.string({ unit: fc.constantFrom("a", '"', "\\", "\n", "é", "→", "😀", "\ud83d"), maxLength: 20 }),
    fc.nat(20_000),
  )
  .map(([unit, times]) => unit.repeat(Math.min(times, Math.ceil(200_000 / (unit.length + 1)))));

test("the pieces of a value are together what JSON.stringify makes of it", () => {
  const value = fc.oneof(
    fc.jsonValue(),
    fc.dictionary(fc.string(), fc.oneof(long, fc.jsonValue(), fc.constant(undefined))),
    long,
  );
  fc.assert(
    fc.property(value, (each) => {
      expect([...jsonPieces(each)].join("")).toBe(JSON.stringify(each));
    }),
    { numRuns: 60 },
  );
});

test("a long text comes in many pieces, a short answer in one", () => {
  const pieces = [...jsonPieces({ text: "x".repeat(1_000_000) })];
  expect(pieces.length).toBeGreaterThan(10);
  expect(Math.max(...pieces.map((piece) => piece.length))).toBeLessThan(200_000);
  expect([...jsonPieces({ jsonrpc: "2.0", id: 1, result: {} })]).toHaveLength(1);
});
