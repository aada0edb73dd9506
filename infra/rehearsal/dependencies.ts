import type { Fault } from "./cloud-error.ts";
import type { Registration } from "./recorder.ts";

type Node = Pick<Registration, "urn" | "parent" | "dependsOn">;

/**
 * Everything that comes before a resource: what it depends on, and what the components depend on that it belongs to
 * (a child is registered once its parent is; on the way down, it goes first).
 */
export class Order {
  readonly #nodes: ReadonlyMap<string, Node>;
  readonly #before = new Map<string, ReadonlySet<string>>();

  constructor(nodes: readonly Node[]) {
    this.#nodes = new Map(nodes.map((node) => [node.urn, node]));
  }

  before(urn: string): ReadonlySet<string> {
    const known = this.#before.get(urn);
    if (known) return known;
    const found = new Set<string>();
    this.#before.set(urn, found); // a cycle, which Pulumi would not have let through, ends here
    for (const next of this.#direct(urn)) {
      found.add(next);
      for (const further of this.before(next)) found.add(further);
    }
    return found;
  }

  /** The longest chain of dependencies, first what everything waits for. Components are left out. */
  longestChain(counts: (urn: string) => boolean): string[] {
    const longest = new Map<string, readonly string[]>();
    const chainTo = (urn: string): readonly string[] => {
      const known = longest.get(urn);
      if (known) return known;
      longest.set(urn, []);
      let best: readonly string[] = [];
      for (const next of this.#direct(urn)) {
        const chain = chainTo(next);
        if (chain.length > best.length) best = chain;
      }
      const chain = counts(urn) ? [...best, urn] : best;
      longest.set(urn, chain);
      return chain;
    };
    let best: readonly string[] = [];
    for (const urn of this.#nodes.keys()) {
      const chain = chainTo(urn);
      if (chain.length > best.length) best = chain;
    }
    return [...best];
  }

  #direct(urn: string): readonly string[] {
    const node = this.#nodes.get(urn);
    if (!node) return [];
    return node.parent === "" ? node.dependsOn : [node.parent, ...node.dependsOn];
  }
}

/**
 * What a resource needs and does not wait for. In one run the order may happen to be right; on Azure, where things take
 * minutes, it is the failure of the first deployment.
 */
export function dependencyFaults(registrations: readonly Registration[]): Fault[] {
  const order = new Order(registrations);
  const byKey = new Map(registrations.flatMap((r) => (r.key === undefined ? [] : [[r.key, r] as const])));
  const faults: Fault[] = [];
  for (const { urn, name, type, uses } of registrations) {
    for (const used of uses) {
      const needed = byKey.get(used);
      if (!needed || needed.urn === urn || order.before(urn).has(needed.urn)) continue;
      const why =
        needed.type === type
          ? "Azure writes one of them at a time, and answers AnotherOperationInProgress to the other"
          : "it may be created before";
      faults.push({
        name,
        resource: urn,
        message: `needs ${needed.name} (${needed.type}) and does not wait for it: ${why}; pass it an output of ${needed.name}, or dependsOn`,
      });
    }
  }
  return faults;
}
