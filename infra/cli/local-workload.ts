import { createHash, randomBytes } from "node:crypto";
import { join, posix } from "node:path";
import { type EnvironmentVariable, parseEnvironment } from "../../server/config.ts";
import { CHECKOUT } from "./checkout.ts";
import { CliError } from "./cli-error.ts";
import type { DeployedServer, DeployedWorkload } from "./deployed-workload.ts";

/** How a deployed container is run on this machine, and in what that differs from it. */
export interface LocalWorkload {
  readonly command: readonly string[];
  readonly directory: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly metricsUrl: string;
  /** Container port to local port. */
  readonly ports: ReadonlyMap<number, number>;
  /** Directories to be made before the start, each under the volume directory. */
  readonly directories: readonly string[];
  /** Every difference from the container, for people. */
  readonly differences: readonly string[];
}

export interface LocalServer extends LocalWorkload {
  /** The MCP endpoint. */
  readonly url: string;
}

/** Emulators of what jobs stand on, as the server's variables name them. */
export interface LocalJobs {
  /** `localhost:<port>` */
  readonly serviceBus: string;
  /** `http://127.0.0.1:<port>/devstoreaccount1` */
  readonly tableEndpoint: string;
  readonly blobEndpoint: string;
}

export interface LocalOptions {
  /** Where volumes are: a directory of the rehearsal's own. */
  readonly volumes: string;
  /** The key that opens it, instead of the plan's; for a server that takes keys. */
  readonly key?: string;
  /** Where the stand-in for Entra answers, for a server that takes tokens. */
  readonly authority?: string;
  /** Where jobs are queued and kept; without, a server runs them itself. */
  readonly jobs?: LocalJobs;
  /** Ports instead of the plan's. */
  readonly ports?: { readonly http: number; readonly metrics: number };
  readonly checkout?: string;
}

/** Where the image has the server. */
const SERVER_IN_IMAGE = "/app/server";
const LOOPBACK = "127.0.0.1";

/** What holds for a variable that the container does not set. */
const DEFAULTS = parseEnvironment({});

/** What a server or worker has for jobs; without them it has them in memory. */
const JOB_VARIABLES = [
  "SERVICE_BUS_NAMESPACE",
  "SERVICE_BUS_QUEUE",
  "SERVICE_BUS_ORDERED_QUEUE",
  "JOBS_TABLE_ENDPOINT",
  "JOBS_TABLE_NAME",
  "JOBS_BLOB_ENDPOINT",
  "JOBS_BLOB_CONTAINER",
] as const satisfies readonly EnvironmentVariable[];

/** The server on this machine. */
export function localServer(server: DeployedServer, options: LocalOptions): LocalServer {
  const local = localWorkload(server, options);
  return { ...local, url: `http://${LOOPBACK}:${local.ports.get(server.port) ?? server.port}/mcp` };
}

/**
 * The one place that decides how a local process differs from the container: where it listens, where its volumes are,
 * and what of the image is taken from this machine.
 */
export function localWorkload(workload: DeployedWorkload, options: LocalOptions): LocalWorkload {
  const { container, environment, deployment } = workload;
  const checkout = options.checkout ?? CHECKOUT;
  const differences: string[] = [];
  const differs = (line: string) => differences.push(line);
  const local: Record<string, string> = { ...environment };

  if (environment.HOST !== LOOPBACK) {
    local.HOST = LOOPBACK;
    differs(
      `listens on ${LOOPBACK}, which only this machine reaches, rather than on ${environment.HOST ?? "its default"}`,
    );
  }
  if (environment.API_KEY_HASHES !== undefined && options.key !== undefined) {
    local.API_KEY_HASHES = hashOf(options.key);
    differs("opens to a key made just now, for the in-memory cloud's random values are the same everywhere");
  }
  if (environment.API_KEYS_SECRET !== undefined) {
    delete local.API_KEYS_SECRET;
    differs("reads no register of keys, for there is no vault to read it from");
  }
  if (environment.AUDIT_INGESTION_ENDPOINT !== undefined) {
    delete local.AUDIT_INGESTION_ENDPOINT;
    delete local.AUDIT_INGESTION_RULE;
    differs("keeps its audit trail in its log alone, for there is no Log Analytics to send it to");
  }
  if (environment.REDIS_HOST !== undefined) {
    delete local.REDIS_HOST;
    delete local.REDIS_PORT;
    differs("counts limits and keeps tickets in memory, for there is no Redis");
  }
  const { jobs } = options;
  if (JOB_VARIABLES.some((variable) => environment[variable] !== undefined)) {
    if (jobs) {
      local.JOBS_AUTH = "emulator";
      local.SERVICE_BUS_NAMESPACE = jobs.serviceBus;
      local.JOBS_TABLE_ENDPOINT = jobs.tableEndpoint;
      local.JOBS_BLOB_ENDPOINT = jobs.blobEndpoint;
      differs(
        `has jobs in emulators of Service Bus (${jobs.serviceBus}) and of storage (${new URL(jobs.tableEndpoint).host}, ` +
          `${new URL(jobs.blobEndpoint).host}) rather than in ${environment.SERVICE_BUS_NAMESPACE}`,
      );
    } else {
      for (const variable of JOB_VARIABLES) delete local[variable];
      differs("runs jobs itself and keeps them in memory, for there is no storage");
    }
  }
  if (environment.COMMAND_ISOLATION === "required") {
    // Neither works on every machine that this runs on, and without isolation no network can be kept from a command.
    local.COMMAND_ISOLATION = "auto";
    local.COMMAND_NETWORK = "true";
    differs(
      "isolates commands as far as this machine can, rather than not start where it cannot; they have its network",
    );
  }
  const ports = new Map<number, number>();
  for (const [variable, kind] of [["PORT", "http"] as const, ["METRICS_PORT", "metrics"] as const]) {
    const planned = Number(environment[variable] ?? DEFAULTS[variable]);
    const port = options.ports?.[kind];
    // A port that the container does not show is none that anybody asks.
    if (!container.ports.some(({ containerPort }) => containerPort === planned)) continue;
    ports.set(planned, port ?? planned);
    local[variable] = String(port ?? planned);
  }
  if ([...ports].some(([planned, port]) => planned !== port)) {
    const list = (of: Iterable<number>) => [...of].join(" and ");
    differs(`listens on ${list(ports.values())} rather than ${list(ports.keys())}`);
  }

  if (environment.SHUTDOWN_DRAIN_SECONDS !== undefined && environment.SHUTDOWN_DRAIN_SECONDS !== "0") {
    local.SHUTDOWN_DRAIN_SECONDS = "0";
    differs("ends without waiting for load balancers to take notice, for there are none");
  }

  const { volumes } = deployment.spec.template.spec;
  const mounts = container.volumeMounts.map(({ name, mountPath, subPath }) => {
    const claim = volumes.find((volume) => volume.name === name)?.persistentVolumeClaim?.claimName;
    return {
      mountPath: posix.normalize(mountPath),
      // A claim is one directory for whoever mounts it; everything else is the pod's own.
      directory: join(options.volumes, claim ?? join(deployment.metadata.name, name), subPath ?? ""),
      shared: claim !== undefined,
    };
  });
  // Each value once: what it has become may lie under the next mount, as temporary directories do under /tmp.
  for (const [name, value] of Object.entries(local)) {
    for (const { mountPath, directory } of mounts) {
      const path = underMount(value, mountPath);
      if (path !== undefined) local[name] = join(directory, path);
    }
  }
  for (const { mountPath, directory, shared } of mounts) {
    // What a program writes to /tmp by itself follows the variable.
    if (mountPath === "/tmp") local.TMPDIR = directory;
    const whose = shared ? ", the same for all that mount the claim" : "";
    differs(`${mountPath} is a temporary directory${whose}, gone with the rehearsal`);
  }

  const inServer = posix.relative(SERVER_IN_IMAGE, workload.workingDir);
  if (inServer.startsWith("..")) {
    throw new CliError(
      `The container starts in ${workload.workingDir}, and the checkout has only what the image keeps in ${SERVER_IN_IMAGE}.`,
    );
  }
  differs(`code and Node ${process.versions.node} of this checkout rather than of the image, as this user`);
  const federated = deployment.spec.template.metadata.labels["azure.workload.identity/use"] === "true";
  if (federated && options.authority !== undefined) {
    local.AZURE_AUTHORITY_HOST = options.authority;
    differs(
      "of what the webhook of workload identity injects, it has AZURE_AUTHORITY_HOST alone: a stand-in for Entra, here",
    );
  } else if (federated) differs("no workload identity: the variables that its webhook injects are absent");

  const [program = "node", ...args] = withoutInit(workload.command);
  if (args.length < workload.command.length - 1) differs("no init process; it is this process's child");
  return {
    command: [posix.basename(program) === "node" ? process.execPath : program, ...args],
    directory: join(checkout, "server", inServer),
    environment: { ...machineEnvironment(), ...local },
    metricsUrl: `http://${LOOPBACK}:${local.METRICS_PORT ?? DEFAULTS.METRICS_PORT}/metrics`,
    ports,
    directories: mounts.map(({ directory }) => directory),
    differences,
  };
}

/** What the image's base provides and a process of this machine needs: nothing of the user's own variables. */
function machineEnvironment(): Record<string, string> {
  const names = ["PATH", "SystemRoot", "ComSpec", "PATHEXT"];
  return Object.fromEntries(
    names.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name] ?? ""]])),
  );
}

/** A container's process 1 that only passes signals on, `tini -- node main.js`: not on every machine, and not needed. */
function withoutInit(command: readonly string[]): readonly string[] {
  const isInit = /^(tini|dumb-init)$/.test(posix.basename(command[0] ?? ""));
  return isInit ? command.slice(Math.max(command.indexOf("--"), 0) + 1) : command;
}

function underMount(value: string, mountPath: string): string | undefined {
  if (value === mountPath) return "";
  return value.startsWith(`${mountPath}/`) ? value.slice(mountPath.length + 1) : undefined;
}

/** A key that only this rehearsal knows, in the form of the deployed ones. */
export function throwAwayKey(stack: string): string {
  return `mcp_${stack}_${randomBytes(32).toString("base64url")}`;
}

/** An entry of the server's API_KEY_HASHES. */
function hashOf(key: string): string {
  return `sha256:${createHash("sha256").update(key).digest("hex")}`;
}
