import { rmSync } from "node:fs";
import { Command, InvalidArgumentError } from "commander";
import { z } from "zod";
import { CLIENTS, ideConfig } from "../ide-configs.ts";
import { knownStack } from "./checkout.ts";
import { CliError } from "./cli-error.ts";
import { printConfig } from "./config-file.ts";
import { type DeployedWorkload, deployedServer, deployedWorker } from "./deployed-workload.ts";
import type { Driven } from "./driven-tools.ts";
import { type JobEmulators, startJobEmulators } from "./job-emulators.ts";
import { waitForProbe } from "./kubelet.ts";
import { credentialOf, localIdentity } from "./local-identity.ts";
import {
  assertPortIsFree,
  freePorts,
  type RunningWorkload,
  removeDirectory,
  startWorkload,
  volumeDirectory,
} from "./local-process.ts";
import { type LocalWorkload, localServer, localWorkload } from "./local-workload.ts";
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
  const manifests = plan.cluster.objects().map(({ object }) => object);
  const server = deployedServer(manifests);
  const worker = hasQueue(server) ? deployedWorker(manifests) : undefined;
  const identity = await localIdentity(server.environment, plan.stack);
  const signals = listenForSignals();
  const volumes = await volumeDirectory();
  // Also on the ways out that run no `finally`: a second Ctrl-C, a crash.
  const leaveNothing = () => {
    rmSync(volumes, { recursive: true, force: true });
    if (!check) for (const file of Object.values(rehearsalFiles(plan.stack))) rmSync(file, { force: true });
  };
  process.once("exit", leaveNothing);
  const started: Started[] = [];
  // A worker with a job would otherwise be waited for as long as its pod's grace is.
  let end = ({ running }: Started) => running.kill();
  let emulators: JobEmulators | undefined;
  try {
    emulators = worker && (await startJobEmulators(plan, worker.environment));
    const shared = { volumes, ...identity, ...(emulators && { jobs: emulators.local }) };
    const local = localServer(server, { ...shared, ...(port !== undefined && { ports: await portsFor(port) }) });
    describe(server, local, terminal);
    await assertPortsAreFree(local.ports.values());
    // Nobody has to know the worker's ports, and the plan's are the server's as well.
    const localWorker = worker && localWorkload(worker, { ...shared, ports: await freePorts() });
    if (worker && localWorker) describe(worker, localWorker, terminal);

    started.push(await start(server, local));
    if (worker && localWorker) started.push(await start(worker, localWorker));
    const driven = {
      ...identity,
      url: local.url,
      metricsUrl: local.metricsUrl,
      ...(localWorker && { worker: { metricsUrl: localWorker.metricsUrl } }),
    };
    const outcome = await Promise.race([
      signals.first.then(() => "interrupted" as const),
      probeAndDrive(started, driven, steps).then(() => "well" as const),
    ]);
    if (outcome === "interrupted") throw new CliError("Interrupted before the rehearsal was complete.", INTERRUPTED);
    if (check) {
      // Both at once, as when a node is emptied; told one after the other.
      for (const { running } of started) void running.stop();
      for (const each of started) {
        await steps.step(`The ${each.workload.title} ends as the kubelet asks it to`, () => endsProperly(each));
      }
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
        ...(emulators && { jobs: emulators.place }),
      },
      credentialOf(identity).value,
    );
    tellHowToConnect(state, credentialOf(identity).kind, terminal);
    end = ({ running }) => running.stop();
    await serve(started, signals.first, terminal);
  } finally {
    await Promise.all(started.map(end));
    await emulators?.close();
    await identity.close();
    if (!check) await forgetRehearsal(plan.stack);
    await removeDirectory(volumes);
    process.removeListener("exit", leaveNothing);
    signals.ignore();
  }
}

/** Whether the server sends its jobs to somebody else. */
function hasQueue({ environment }: DeployedWorkload): boolean {
  return environment.SERVICE_BUS_NAMESPACE !== undefined;
}

/** A workload of the plan that runs here. */
interface Started {
  readonly workload: DeployedWorkload;
  readonly local: LocalWorkload;
  readonly running: RunningWorkload;
}

async function start(workload: DeployedWorkload, local: LocalWorkload): Promise<Started> {
  return { workload, local, running: await startWorkload(local, workload.terminationGraceSeconds) };
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

function describe(workload: DeployedWorkload, local: LocalWorkload, { out, colours }: Terminal): void {
  const { metadata } = workload.deployment;
  const title = colours.bold(`The ${workload.title}`);
  out(`${title}, as Deployment ${metadata.namespace}/${metadata.name} has it: ${workload.command.join(" ")}\n`);
  out(`Environment: ${Object.keys(workload.environment).toSorted().join(", ")}\n`);
  out(`Unlike in its container, it\n${local.differences.map((line) => `  - ${line}`).join("\n")}\n\n`);
}

/** The kubelet's part, then the users'. */
async function probeAndDrive(started: readonly Started[], driven: Driven, steps: Steps): Promise<void> {
  for (const { workload, local, running } of started) {
    for (const name of ["startup", "readiness", "liveness"] as const) {
      const probe = workload.probes[name];
      if (!probe) continue;
      const what = probe.httpGet ? `GET ${probe.httpGet.path}` : "a connection";
      await steps.step(`The ${workload.title}'s ${name} probe succeeds`, async () => {
        const { tries } = await waitForProbe(name, probe, workload, local, running);
        return { note: `${what}${tries > 1 ? `, ${tries} tries` : ""}` };
      });
    }
  }
  // Only here: the client libraries take longer to load than all the rest, and every command would wait for them.
  const { drive } = await import("./drive.ts");
  await drive(driven, steps);
}

async function endsProperly({ workload: { title }, running }: Started): Promise<{ note: string }> {
  const { code, signal, killed } = await running.stop();
  if (killed)
    throw new CliError(
      `The ${title} did not end within its grace and was killed. It last said:\n${running.lastLines()}`,
    );
  if (code !== 0) {
    throw new CliError(
      `Asked to end, the ${title} ended with ${signal ?? `exit code ${code}`}. It last said:\n${running.lastLines()}`,
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

/** Serves until someone asks for the end; a process that ends by itself is a failure. */
async function serve(
  started: readonly Started[],
  interrupted: Promise<void>,
  { out, colours }: Terminal,
): Promise<void> {
  out(`\n${colours.green("Serving.")} Ctrl-C ends it.\n`);
  const ends = started.map(async (each) => ({ ...each, ending: await each.running.ended }));
  const ended = await Promise.race([interrupted, ...ends]);
  if (ended) {
    const { workload, running, ending } = ended;
    const how = ending.signal ?? `exit code ${ending.code}`;
    throw new CliError(`The ${workload.title} ended by itself (${how}). It last said:\n${running.lastLines()}`);
  }
  out(`\nEnding the ${started.map(({ workload }) => workload.title).join(" and the ")}.\n`);
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
