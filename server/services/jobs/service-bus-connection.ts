import { setTimeout as delay } from "node:timers/promises";
import type { RetryOptions, ServiceBusClient } from "@azure/service-bus";
import { azureCredential } from "../azure-credential.ts";

/** Where the queues are, and how to prove who asks. */
export interface ServiceBusPlace {
  /** The namespace's full name; an emulator's with its port. */
  readonly host: string;
  readonly queue: string;
  /** One with sessions: for messages with an order key. */
  readonly orderedQueue: string;
  /** `emulator`: an emulator's connection string, which speaks AMQP without TLS. On loopback only. */
  readonly credential: "entra" | "emulator";
  /**
   * The broker's clock, as near as it is known: by it messages are due, and locks end. Milliseconds since 1970; default is
   * this machine's.
   */
  readonly now?: () => number;
}

/** The client waits for a minute for whatever was cut off, also when it is closed. Nobody else does. */
const CLOSE_TIMEOUT_MS = 5000;

/** How often in a row nothing may come of a client. Each time takes seconds, and whoever asks waits longer and longer. */
const MOST_FAILURES = 3;

/** A connection that is opened when it is first asked for, and anew when nothing comes of it any more. */
export interface Connection {
  client(): Promise<ServiceBusClient>;
  /** Something that is done by the client; it is not closed meanwhile, when another takes its place. */
  during<Result>(work: Promise<Result>): Promise<Result>;
  /** Something came of the client. */
  succeeded(): void;
  /**
   * Nothing did. The third time in a row, whoever asks next gets another client: after a stall of the network this one may
   * wait for itself for ever. It is closed when what is done by it is over.
   */
  failed(): void;
  close(): Promise<void>;
}

export function connection(place: ServiceBusPlace, retryOptions: RetryOptions): Connection {
  let opened: Promise<ServiceBusClient> | undefined;
  let failures = 0;
  const underWay = new Set<Promise<unknown>>();
  return {
    async during(work) {
      underWay.add(work);
      try {
        return await work;
      } finally {
        underWay.delete(work);
      }
    },
    succeeded() {
      failures = 0;
    },
    failed() {
      failures += 1;
      if (failures < MOST_FAILURES) return;
      failures = 0;
      const stuck = opened;
      opened = undefined;
      Promise.all([stuck, Promise.allSettled(underWay)])
        .then(([client]) => client?.close())
        .catch(() => {});
    },
    client() {
      opened ??= connect(place, retryOptions).catch((error) => {
        opened = undefined;
        throw error;
      });
      return opened;
    },
    async close() {
      const client = await opened;
      if (client === undefined) return;
      const enough = new AbortController();
      const tooLong = delay(CLOSE_TIMEOUT_MS, undefined, { signal: enough.signal }).catch(() => {});
      // Of what was cut off meanwhile it says that it cannot be closed.
      await Promise.race([client.close().catch(() => {}), tooLong]);
      enough.abort();
    },
  };
}

/** Loaded when it is needed: a server without a queue does without its memory. */
export async function connect(
  { host, credential }: ServiceBusPlace,
  retryOptions: RetryOptions,
): Promise<ServiceBusClient> {
  const { ServiceBusClient } = await import("@azure/service-bus");
  if (credential === "entra") return new ServiceBusClient(host, await azureCredential(), { retryOptions });
  // The emulator's own, which is no secret: "Test locally by using the Service Bus emulator". It takes any key.
  const key = "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE";
  return new ServiceBusClient(`Endpoint=sb://${host};${key};UseDevelopmentEmulator=true;`, { retryOptions });
}
