import pc from "picocolors";
import { Order } from "./dependencies.ts";
import { factsOf } from "./facts.ts";
import type { Plan, PlannedResource } from "./plan.ts";
import { textsAt } from "./values.ts";

/** The plan as JSON: `{stack, resources, outputs, warnings, faults}`, secrets masked. */
export function planJson(plan: Plan): string {
  return JSON.stringify(plan, null, 2);
}

export interface PlanTextOptions {
  /** Default: on a terminal, unless NO_COLOR is set. */
  readonly color?: boolean;
}

/** The plan for people: the resources by component with what matters of them, counts, the longest chain, warnings. */
export function planText(
  plan: Plan,
  { color = pc.isColorSupported && process.stdout.isTTY === true }: PlanTextOptions = {},
): string {
  const colours = pc.createColors(color);
  // A plan that is turned into text shows masked inputs, as its JSON does.
  const resources: PlannedResource[] = JSON.parse(JSON.stringify(plan.resources));
  const sections = [
    `${colours.bold(`Stack ${plan.stack}`)}: ${counts(resources)}`,
    tree(resources, colours),
    `${colours.bold("Longest chain")} ${chain(resources)}`,
    section(colours.bold("For an administrator of Entra"), textsAt(plan.outputs, "entraSetup")),
    section(colours.yellow("Warnings"), plan.warnings),
    section(
      colours.red("Faults"),
      plan.faults.map((fault) => `${fault.name}: ${fault.message}`),
    ),
  ];
  return sections.filter((text) => text !== "").join("\n\n");
}

function section(title: string, lines: readonly string[]): string {
  return lines.length === 0 ? "" : [title, ...lines.map((line) => `  - ${line}`)].join("\n");
}

const STACK = "pulumi:pulumi:Stack";
const isComponent = ({ type }: PlannedResource) => type.startsWith("mcp:") || type === STACK;

/** `160 resources (azure-native 80, kubernetes 70, ...) in 30 components`. */
function counts(resources: readonly PlannedResource[]): string {
  const real = resources.filter((resource) => !isComponent(resource));
  const byProvider = Map.groupBy(real, ({ type }) =>
    type.startsWith("pulumi:providers:") ? "providers" : (type.split(":")[0] ?? ""),
  );
  const list = [...byProvider].sort(([, a], [, b]) => b.length - a.length).map(([name, of]) => `${name} ${of.length}`);
  const components = resources.filter(({ type }) => type.startsWith("mcp:")).length;
  return `${real.length} resources (${list.join(", ")}) in ${components} components`;
}

function tree(resources: readonly PlannedResource[], colours: ReturnType<typeof pc.createColors>): string {
  const children = Map.groupBy(resources, ({ parent }) => parent);
  const lines: string[] = [];
  const add = (resource: PlannedResource, lead: string, branch: string) => {
    const type = shortType(resource.type);
    const facts = factsOf(resource).filter((fact) => fact !== resource.name);
    const title = isComponent(resource)
      ? `${colours.bold(resource.name)} ${colours.dim(type)}`
      : `${resource.name} ${colours.dim(type)}`;
    lines.push(`${colours.dim(branch)}${title}${facts.length > 0 ? `  ${colours.cyan(facts.join(" · "))}` : ""}`);
    addAll(children.get(resource.urn) ?? [], lead);
  };
  const addAll = (siblings: readonly PlannedResource[], lead: string) => {
    // Components are registered as the program goes, what is in them when it is known: components keep their order.
    const ordered = [...siblings.filter((r) => !isComponent(r)), ...siblings.filter(isComponent)];
    ordered.forEach((resource, i) => {
      const isLast = i === ordered.length - 1;
      add(resource, `${lead}${isLast ? "   " : "│  "}`, `${lead}${isLast ? "└─ " : "├─ "}`);
    });
  };
  const [root] = children.get("") ?? [];
  addAll(root?.type === STACK ? (children.get(root.urn) ?? []) : (children.get("") ?? []), "");
  return lines.join("\n");
}

/** `containerservice:ManagedCluster`, `apps/v1:Deployment`, `Cluster`. */
function shortType(type: string): string {
  const [provider, module = "", name = ""] = type.split(":");
  if (provider === "mcp") return name;
  return provider === "azure-native" || provider === "kubernetes" ? `${module}:${name}` : `${provider}:${name}`;
}

/** Names along the longest chain of dependencies; what is at its head is needed first. */
function chain(resources: readonly PlannedResource[]): string {
  const byUrn = new Map(resources.map((resource) => [resource.urn, resource]));
  const urns = new Order(resources).longestChain((urn) => {
    const resource = byUrn.get(urn);
    return resource !== undefined && !isComponent(resource);
  });
  return `(${urns.length} resources): ${urns.map((urn) => byUrn.get(urn)?.name ?? urn).join(" → ")}`;
}
