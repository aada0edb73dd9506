import { FakeCloud } from "../../../infra/rehearsal/cloud.ts";
import { type Plan, rehearsePlan } from "../../../infra/rehearsal/plan.ts";
import type { Properties } from "../../../infra/rehearsal/values.ts";

const plans = new Map<string, Promise<Plan>>();

/** A shipped stack's plan, made once in each test file. */
export function shippedPlan(stack: string): Promise<Plan> {
  const plan = plans.get(stack) ?? rehearsePlan(stack);
  plans.set(stack, plan);
  return plan;
}

export interface Change {
  /** End of the type token: `Deployment`. */
  readonly type: string;
  /** The resource's name in the program; absent: the first of the type. */
  readonly name?: string;
  /** What becomes of its inputs; `undefined` leaves the resource out. */
  readonly to: (inputs: Properties) => Properties | undefined;
}

/**
 * Builds the clouds of a shipped stack again, with a change, and says everything that is wrong with it: refusals, and
 * then what only shows once everything is there.
 */
export async function faultsAfter(stack: string, ...changes: Change[]): Promise<string[]> {
  const plan = await shippedPlan(stack);
  const cloud = new FakeCloud();
  const used = new Set<Change>();
  for (const { type, name, inputs } of plan.resources) {
    if (type.startsWith("mcp:") || type.startsWith("pulumi:")) continue;
    const change = changes.find((c) => !used.has(c) && type.endsWith(`:${c.type}`) && (c.name ?? name) === name);
    if (change) used.add(change);
    const changed = change ? change.to(structuredClone(inputs)) : inputs;
    if (!changed) continue;
    try {
      cloud.create({ type, name, inputs: changed });
    } catch (error) {
      return [`${name}: ${error instanceof Error ? error.message : String(error)}`];
    }
  }
  const unused = changes.find((change) => !used.has(change));
  if (unused) throw new Error(`stack ${stack} has no ${unused.type} ${unused.name ?? ""}`);
  return cloud.verify().map((fault) => `${fault.name}: ${fault.message}`);
}

/** Sets the value at a dotted path; numbers index lists. */
export function set(path: string, value: unknown): (inputs: Properties) => Properties {
  return (inputs) => {
    const keys = path.split(".");
    const lastKey = keys.pop() ?? "";
    let place: object = inputs;
    for (const key of keys) {
      let next: unknown = Reflect.get(place, key);
      if (typeof next !== "object" || next === null) {
        next = {};
        Reflect.set(place, key, next);
      }
      place = next as object;
    }
    if (value === undefined) Reflect.deleteProperty(place, lastKey);
    else Reflect.set(place, lastKey, value);
    return inputs;
  };
}
