import { resolve } from "node:path";
import { Command } from "commander";
import { planOf, refuseFaults, stackArgument } from "./plan.ts";
import { shortPath } from "./rehearsal-state.ts";
import type { Terminal } from "./terminal.ts";

/** `render [stack] --out DIR`: a stack's Kubernetes objects as files. */
export function renderCommand(terminal: Terminal): Command {
  return new Command("render")
    .summary("write a stack's Kubernetes objects as YAML")
    .description(
      "Writes the Kubernetes objects that the stack's plan holds as YAML files, valid for kubectl apply. " +
        "Charts become files of values, and install.sh has the order; secrets' values are left out.",
    )
    .addArgument(stackArgument())
    .option("-o, --out <dir>", "directory to write to, made if missing", "rendered")
    .option("--json", "print the files' names as JSON")
    .addHelpText(
      "after",
      `
Examples:
  npm run render -- dev --out k8s
  npm run render -- prod --out /tmp/prod && kubectl diff --recursive --filename /tmp/prod`,
    )
    .action(async (stack: string, options: { readonly out: string; readonly json?: true }) => {
      const plan = await planOf(stack);
      refuseFaults(plan, false);
      const { renderKubernetes } = await import("../rehearsal/render.ts");
      const directory = resolve(process.env.INIT_CWD ?? process.cwd(), options.out);
      const files = await renderKubernetes(plan, directory);
      if (options.json) terminal.out(`${JSON.stringify(files, null, 2)}\n`);
      else
        terminal.out(
          `${files.length} files of stack ${plan.stack} are in ${shortPath(directory)}; install.sh has their order\n`,
        );
    });
}
