import { Argument, Command } from "commander";
import { knownStack, stacks } from "./checkout.ts";
import { CliError } from "./cli-error.ts";
import type { Terminal } from "./terminal.ts";

/** `plan [stack]`: every resource that a stack would have. */
export function planCommand(terminal: Terminal): Command {
  return new Command("plan")
    .summary("show every resource that a stack would have")
    .description(
      "Runs the Pulumi program of a stack against an in-memory Azure and Kubernetes, and shows what it would create: " +
        "the resources by component, counts, the longest dependency chain, warnings. Reaches nothing, needs no account.",
    )
    .addArgument(stackArgument())
    .option("--json", "print {stack, resources, outputs} as JSON, secrets masked")
    .addHelpText(
      "after",
      `
Examples:
  npm run plan -- prod
  npm run --silent plan -- prod --json | jq -r '.resources[].type' | sort | uniq -c

Exit codes: 0 the plan is whole, 1 it has faults (Azure or Kubernetes would refuse something, or a setting is wrong).`,
    )
    .action(async (stack: string, options: { readonly json?: true }) => {
      const plan = await planOf(stack);
      const { planJson, planText } = await import("../rehearsal/plan-view.ts");
      terminal.out(options.json ? `${planJson(plan)}\n` : `${planText(plan)}\n`);
      refuseFaults(plan, true);
    });
}

export function stackArgument(): Argument {
  return new Argument("[stack]", `one of ${stacks().join(", ")}`).default("dev");
}

type Plan = Awaited<ReturnType<typeof planOf>>;

/** The plan of a stack. The program and its fake cloud are loaded only here: they take longer than all the rest. */
export async function planOf(stack: string) {
  const known = knownStack(stack);
  const { rehearsePlan } = await import("../rehearsal/plan.ts");
  return rehearsePlan(known);
}

/**
 * @param shown whether the faults have been printed with the plan already.
 * @throws CliError if the plan has faults.
 */
export function refuseFaults({ stack, faults }: Pick<Plan, "stack" | "faults">, shown: boolean): void {
  if (faults.length === 0) return;
  const count = faults.length === 1 ? "a fault" : `${faults.length} faults`;
  const list = faults.map(({ name, message }) => `\n  - ${name}: ${message}`).join("");
  throw new CliError(`The plan of ${stack} has ${count}${shown ? ", told above." : `:${list}`}`);
}
