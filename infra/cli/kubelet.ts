import { request } from "node:http";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { CliError } from "./cli-error.ts";
import { type DeployedWorkload, portNumber } from "./deployed-workload.ts";
import type { Probe } from "./kubernetes-objects.ts";
import type { RunningWorkload } from "./local-process.ts";
import type { LocalWorkload } from "./local-workload.ts";

/** Longest between two tries here; the kubelet's own period would make everyone wait for nothing. Milliseconds. */
const IMPATIENCE_MS = 200;
/** A pod's address, which the kubelet names as the host: whoever minds the Host header must not mind this one. */
const POD_ADDRESS = "10.244.0.17";

export interface ProbeResult {
  readonly tries: number;
  readonly seconds: number;
}

/**
 * Does the kubelet's part for one probe: tries it until it has succeeded as often as it must.
 *
 * @returns how long that took.
 * @throws CliError when the probe has failed for as long as the kubelet would have waited, or the process has ended.
 */
export async function waitForProbe(
  name: "startup" | "readiness" | "liveness",
  probe: Probe,
  workload: DeployedWorkload,
  local: LocalWorkload,
  running: RunningWorkload,
): Promise<ProbeResult> {
  const started = performance.now();
  const patience = (probe.initialDelaySeconds + probe.periodSeconds * probe.failureThreshold) * 1000;
  const gone = running.ended.then(() => "ended" as const);
  let successes = 0;
  for (let tries = 1; ; tries += 1) {
    const outcome = await Promise.race([tryProbe(probe, workload, local), gone]);
    if (outcome === "ended") {
      const { code, signal } = await running.ended;
      throw new CliError(
        `The ${workload.title} ended (${signal ?? `exit code ${code}`}) before its ${name} probe succeeded. ` +
          `It last said:\n${indent(running.lastLines())}`,
      );
    }
    successes = outcome === undefined ? successes + 1 : 0;
    const elapsed = performance.now() - started;
    if (successes >= probe.successThreshold) return { tries, seconds: elapsed / 1000 };
    if (elapsed > patience) {
      throw new CliError(
        `The ${name} probe failed for ${Math.round(patience / 1000)} s, after which the kubelet gives up: ${outcome}.\n` +
          `The ${workload.title} last said:\n${indent(running.lastLines())}`,
      );
    }
    await Promise.race([sleep(Math.min(IMPATIENCE_MS, probe.periodSeconds * 1000)), gone]);
  }
}

/** One try. Returns what went wrong, or undefined. */
async function tryProbe(
  probe: Probe,
  { title, container }: DeployedWorkload,
  local: LocalWorkload,
): Promise<string | undefined> {
  const wanted = probe.httpGet?.port ?? probe.tcpSocket?.port;
  if (wanted === undefined)
    throw new CliError("Only httpGet and tcpSocket probes can be rehearsed without a container.");
  const planned = portNumber(container, wanted);
  const port = local.ports.get(planned);
  if (port === undefined) {
    throw new CliError(
      `A probe asks port ${planned}, where the ${title} has nothing; it listens on ${[...local.ports.keys()].join(" and ")}.`,
    );
  }
  const timeout = probe.timeoutSeconds * 1000;
  return probe.httpGet ? httpGet(probe.httpGet, planned, port, timeout) : tcpSocket(port, timeout);
}

/** As the kubelet asks: the pod's address as host, its own user agent, and 200 to 399 for success. */
function httpGet(
  { path, httpHeaders }: NonNullable<Probe["httpGet"]>,
  planned: number,
  port: number,
  timeout: number,
): Promise<string | undefined> {
  return new Promise((resolve) => {
    const headers = {
      host: `${POD_ADDRESS}:${planned}`,
      "user-agent": "kube-probe/1.36",
      accept: "*/*",
      connection: "close",
      ...Object.fromEntries(httpHeaders.map(({ name, value }) => [name.toLowerCase(), value])),
    };
    const call = request({ host: "127.0.0.1", port, path, headers, timeout, agent: false }, (response) => {
      const status = response.statusCode ?? 0;
      response.resume();
      resolve(status >= 200 && status < 400 ? undefined : `GET ${path} answered ${status}`);
    });
    call.once("timeout", () => call.destroy(new Error(`no answer within ${timeout / 1000} s`)));
    call.once("error", (error) => resolve(`GET ${path}: ${error.message}`));
    call.end();
  });
}

function tcpSocket(port: number, timeout: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port, timeout });
    const done = (fault: string | undefined) => {
      socket.destroy();
      resolve(fault);
    };
    socket.once("connect", () => done(undefined));
    socket.once("timeout", () => done(`port ${port}: no connection within ${timeout / 1000} s`));
    socket.once("error", (error) => done(`port ${port}: ${error.message}`));
  });
}

function indent(text: string): string {
  return text === "" ? "  (nothing)" : text.replace(/^/gm, "  ");
}
