import { rmSync } from "node:fs";
import { Command, InvalidArgumentError } from "commander";
import { z } from "zod";
import { CLIENTS, ideConfig } from "../ide-configs.ts";
import { knownStack } from "./checkout.ts";
import { CliError } from "./cli-error.ts";
import { printConfig } from "./config-file.ts";
import { type DeployedServer, deployedServer, type LocalServer, localServer } from "./deployed-server.ts";
import { waitForProbe } from "./kubelet.ts";
import { credentialOf, type LocalIdentity, localIdentity } from "./local-identity.ts";
import {
  assertPortIsFree,
  freePorts,
  type RunningServer,
  removeDirectory,
  startServer,
  volumeDirectory,
} from "./local-process.ts";
import { planOf, refuseFaults, stackArgument } from "./plan.ts";
import {
  announceRehearsal,
  forgetRehearsal,
  LoginFacts,
  type RehearsalState,
  rehearsalFiles,
  runningRehearsal,
  shortPath,
} from "./rehearsal-state.ts";
import { Steps, type Terminal } from "./terminal.ts";

interface Options {
  readonly check?: true;
  readonly port?: number;
}

/** `rehearse [stack]`: a stack's server, started and used on this machine as the plan deploys it. */
export function rehearseCommand(terminal: Terminal): Command {
  return new Command("rehearse")
    .summary("plan a stack, start its server here, use it, and keep serving")
    .description(
      "Plans a stack against an in-memory Azure and Kubernetes, starts the bundled server with exactly the environment, " +
        "port, command and probes that the plan gives its container, drives it with real MCP clients of both " +
        "generations, prints the IDE configurations, and serves until Ctrl-C. Needs no account and no container.",
    )
    .addArgument(stackArgument())
    .option("--check", "end when all is well, or with the reason why not")
    .option("--port <number>", "serve on this port and metrics on the next; 0 takes any two that are free", portNumber)
    .addHelpText(
      "after",
      `
Examples:
  npm run rehearse
  npm run rehearse -- prod --check
  npm run rehearse -- staging --port 18080

Exit codes: 0 all is well (after Ctrl-C, too), 1 the plan, the server or a call failed, 130 interrupted before the end.`,
    )
    .action((stack: string, options: Options) => rehearse(stack, options, terminal));
}

/** Exit code of a program that SIGINT has ended: 128 and the signal's number. */
const INTERRUPTED = 130;

async function rehearse(stack: string, { check, port }: Options, terminal: Terminal): Promise<void> {
  const steps = new Steps(terminal);
  if (!check) await refuseSecond(knownStack(stack));
  // Before the plan, too, which takes longer than anybody wants to wait for this.
  if (port) await assertPortsAreFree(Object.values(await portsFor(port)));
  const plan = await planOf(stack);
  const { planText } = await import("../rehearsal/plan-view.ts");
  terminal.out(`${planText(plan)}\n\n`);
  refuseFaults(plan, true);

  const { endpoint, entra: login, ideConfigs } = PlannedOutputs.parse(plan.outputs);
  const server = deployedServer(plan.cluster.objects().map(({ object }) => object));
  const identity = await localIdentity(server.environment, plan.stack);
  const signals = listenForSignals();
  const volumes = await volumeDirectory();
  // Also on the ways out that run no `finally`: a second Ctrl-C, a crash.
  const leaveNothing = () => {
    rmSync(volumes, { recursive: true, force: true });
    if (!check) for (const file of Object.values(rehearsalFiles(plan.stack))) rmSync(file, { force: true });
  };
  process.once("exit", leaveNothing);
  let running: RunningServer | undefined;
  try {
    const local = localServer(server, {
      volumes,
      ...identity,
      ...(port !== undefined && { ports: await portsFor(port) }),
    });
    describe(server, local, terminal);
    await assertPortsAreFree(local.ports.values());
    running = await startServer(local, server.terminationGraceSeconds);
    const started = running;
    const outcome = await Promise.race([
      signals.first.then(() => "interrupted" as const),
      probeAndDrive(server, local, started, identity, steps).then(() => "well" as const),
    ]);
    if (outcome === "interrupted") throw new CliError("Interrupted before the rehearsal was complete.", INTERRUPTED);
    if (check) {
      await steps.step("The server ends as the kubelet asks it to", () => endsProperly(started));
      terminal.out(`\n${terminal.colours.green("All is well")} with stack ${plan.stack}.\n`);
      return;
    }
    const state = await announceRehearsal(
      {
        stack: plan.stack,
        pid: process.pid,
        name: ideConfigs.vscode.name,
        url: local.url,
        metricsUrl: local.metricsUrl,
        plannedUrl: endpoint,
        startedAt: new Date().toISOString(),
        login,
      },
      credentialOf(identity).value,
    );
    tellHowToConnect(state, credentialOf(identity).kind, terminal);
    await serve(started, signals.first, terminal);
  } finally {
    await running?.stop();
    await identity.close();
    if (!check) await forgetRehearsal(plan.stack);
    await removeDirectory(volumes);
    process.removeListener("exit", leaveNothing);
    signals.ignore();
  }
}

/** What the rehearsal reads of the outputs in outputs.ts. */
const PlannedOutputs = z.looseObject({
  endpoint: z.url(),
  entra: LoginFacts.optional(),
  ideConfigs: z.looseObject({ vscode: z.looseObject({ name: z.string() }) }),
});

async function refuseSecond(stack: string): Promise<void> {
  const other = await runningRehearsal(stack);
  if (!other) return;
  throw new CliError(
    `A rehearsal of ${stack} is running already, at ${other.url} (process ${other.pid}). ` +
      `Use it (npm run connect -- vscode --stack ${stack}), or end it first.`,
  );
}

/** `--port 18080`: metrics on the next; `--port 0`: any two. */
async function portsFor(port: number): Promise<{ http: number; metrics: number }> {
  return port === 0 ? freePorts() : { http: port, metrics: port + 1 };
}

/** @param ports of the endpoint, and of the metrics. */
async function assertPortsAreFree(ports: Iterable<number>): Promise<void> {
  const [http, metrics] = ports;
  if (http !== undefined) await assertPortIsFree(http, "MCP endpoint");
  if (metrics !== undefined) await assertPortIsFree(metrics, "metrics");
}

function describe(server: DeployedServer, local: LocalServer, { out, colours }: Terminal): void {
  const { metadata } = server.deployment;
  out(
    `${colours.bold("The server")}, as Deployment ${metadata.namespace}/${metadata.name} has it: ${server.command.join(" ")}\n`,
  );
  out(`Environment: ${Object.keys(server.environment).toSorted().join(", ")}\n`);
  out(`Unlike in its container, it\n${local.differences.map((line) => `  - ${line}`).join("\n")}\n\n`);
}

/** The kubelet's part, then the users'. */
async function probeAndDrive(
  server: DeployedServer,
  local: LocalServer,
  running: RunningServer,
  identity: LocalIdentity,
  steps: Steps,
): Promise<void> {
  for (const name of ["startup", "readiness", "liveness"] as const) {
    const probe = server.probes[name];
    if (!probe) continue;
    const what = probe.httpGet ? `GET ${probe.httpGet.path}` : "a connection";
    await steps.step(`The ${name} probe succeeds`, async () => {
      const { tries } = await waitForProbe(name, probe, server, local, running);
      return { note: `${what}${tries > 1 ? `, ${tries} tries` : ""}` };
    });
  }
  // Only here: the client libraries take longer to load than all the rest, and every command would wait for them.
  const { drive } = await import("./drive.ts");
  await drive({ ...identity, url: local.url, metricsUrl: local.metricsUrl }, steps);
}

async function endsProperly(running: RunningServer): Promise<{ note: string }> {
  const { code, signal, killed } = await running.stop();
  if (killed)
    throw new CliError(`The server did not end within its grace and was killed. It last said:\n${running.lastLines()}`);
  if (code !== 0) {
    throw new CliError(
      `Asked to end, the server ended with ${signal ?? `exit code ${code}`}. It last said:\n${running.lastLines()}`,
    );
  }
  return { note: "SIGTERM, exit code 0" };
}

function tellHowToConnect(state: RehearsalState, kind: "key" | "token", { out, colours }: Terminal): void {
  const { bold, dim, cyan } = colours;
  // Whoever logs in does it at Entra, which knows nothing of this server: here, a key or token opens it for everyone.
  const configs = CLIENTS.map((client) => ideConfig(client, { ...state, byKey: true }));
  const variable = configs.find((config) => config.keyVariable !== undefined)?.keyVariable;
  const connect = (rest: string) =>
    cyan(`npm run connect -- ${rest}${state.stack === "dev" ? "" : ` --stack ${state.stack}`}`);
  out(`\n${bold("Endpoint")}\n  here      ${cyan(state.url)}\n  deployed  ${state.plannedUrl}\n`);
  const what = { key: "Key", token: "Token of an administrator, in place of a login" }[kind];
  out(`\n${bold(what)} (of this rehearsal only; it goes when the rehearsal ends)\n`);
  out(`  ${shortPath(state.keyFile)} holds it: export ${variable}="$(cat ${shortPath(state.keyFile)})"\n`);
  out(
    `\n${bold("IDE configurations")} for the endpoint here; ${connect("<client> --write")} merges one into its file,\n`,
  );
  out(`${connect("<client> --deployed")} prints the deployed stack's${state.login ? ", with the login" : ""}\n`);
  for (const config of configs) {
    const file =
      config.file.project ??
      config.file.user?.[process.platform === "darwin" ? "darwin" : process.platform === "win32" ? "win32" : "linux"];
    out(`\n${bold(config.title)} ${dim(file ?? "")}\n${printConfig(config).replace(/^(?=.)/gm, "  ")}`);
  }
}

/** Serves until someone asks for the end; a server that ends by itself is a failure. */
async function serve(running: RunningServer, interrupted: Promise<void>, { out, colours }: Terminal): Promise<void> {
  out(`\n${colours.green("Serving.")} Ctrl-C ends it.\n`);
  const ending = await Promise.race([interrupted, running.ended]);
  if (ending) {
    const how = ending.signal ?? `exit code ${ending.code}`;
    throw new CliError(`The server ended by itself (${how}). It last said:\n${running.lastLines()}`);
  }
  out("\nEnding the server.\n");
}

interface Signals {
  /** Resolves at the first SIGINT, SIGTERM or SIGHUP. */
  readonly first: Promise<void>;
  ignore(): void;
}

/** npm and the terminal may each pass the same Ctrl-C on; a signal counts as a second one only after this. */
const SAME_SIGNAL_MS = 1000;

function listenForSignals(): Signals {
  const names = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  let at: number | undefined;
  let resolveFirst: () => void = () => {};
  const first = new Promise<void>((resolve) => {
    resolveFirst = resolve;
  });
  const onSignal = () => {
    at ??= performance.now();
    resolveFirst();
    // Whoever asks again does not want to wait for the grace.
    if (performance.now() - at > SAME_SIGNAL_MS) process.exit(INTERRUPTED);
  };
  for (const name of names) process.on(name, onSignal);
  return {
    first,
    ignore: () => {
      for (const name of names) process.removeListener(name, onSignal);
    },
  };
}

function portNumber(text: string): number {
  const port = Number(text);
  if (/^\d{1,5}$/.test(text) && port <= 65_534) return port;
  throw new InvalidArgumentError(`"${text}" is no port; give a number from 0 to 65534.`);
}
