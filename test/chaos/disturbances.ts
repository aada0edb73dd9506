import { setTimeout as delay } from "node:timers/promises";
import { SERVER_BUSY, type ServiceBusDouble } from "../../infra/rehearsal/service-bus/service-bus-double.ts";
import type { FaultProxy } from "../contract/fault-proxy.ts";
import type { Chance } from "./random.ts";
import type { Workers } from "./workers.ts";

/** What goes wrong, until it is told to stop; then nothing does any more. */
export interface Disturbances {
  stop(): Promise<void>;
  /** How often what has happened. */
  readonly counts: ReadonlyMap<string, number>;
}

interface Victims {
  readonly workers: Workers;
  readonly bus: ServiceBusDouble;
  /** In front of the tables. */
  readonly tables: FaultProxy;
  /** How long a message's lock and a run's lease are at most. */
  readonly lockMs: number;
}

export function disturb({ workers, bus, tables, lockMs }: Victims, chance: Chance): Disturbances {
  const stopping = new AbortController();
  const { signal } = stopping;
  const counts = new Map<string, number>();
  const count = (what: string) => void counts.set(what, (counts.get(what) ?? 0) + 1);
  const pause = (low: number, high: number, by: Chance) =>
    delay(by.whole(low, high), undefined, { signal }).catch(() => {});

  /** One after the other, each after a while. */
  async function again(low: number, high: number, act: (chance: Chance) => Promise<void> | void): Promise<void> {
    const own = chance.fork();
    for (;;) {
      await pause(low, high, own);
      if (signal.aborted) return;
      await act(own);
    }
  }

  let storageDown = false;
  const ofStorage = chance.fork();
  tables.fault = () => {
    if (!ofStorage.happens(storageDown ? 0.7 : 0.015)) return undefined;
    const fault = ofStorage.pick([{ status: 503 }, { status: 429, retryAfterSeconds: 1 }, "cut", "lose"] as const);
    count(`tables ${typeof fault === "object" ? fault.status : fault}`);
    return fault;
  };
  const ofBus = chance.fork();
  bus.faults = (operation) => {
    if (!ofBus.happens(0.003)) return undefined;
    const fault = ofBus.pick([SERVER_BUSY, "cut-before", "cut-after"] as const);
    count(`bus ${operation} ${typeof fault === "object" ? "busy" : fault}`);
    return fault;
  };

  const under = Promise.all([
    again(3000, 6000, (own) => {
      const place = own.pick(workers.places) ?? 0;
      const way = own.pick(["SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM"] as const) ?? "SIGKILL";
      count(way);
      workers.signal(place, way);
    }),
    // Longer than lease and lock: somebody else holds what it takes for its own when it goes on.
    again(4000, 8000, async (own) => {
      const place = own.pick(workers.places) ?? 0;
      count("SIGSTOP");
      workers.signal(place, "SIGSTOP");
      await pause(lockMs * 1.2, lockMs * 2.5, own);
      workers.signal(place, "SIGCONT");
    }),
    again(6000, 12_000, () => {
      count("bus connections cut");
      bus.cutConnections();
    }),
    again(8000, 15_000, async (own) => {
      count("bus down");
      await bus.stop();
      await pause(500, 2000, own);
      await bus.resume();
    }),
    again(8000, 15_000, async (own) => {
      count("tables down");
      storageDown = true;
      await pause(300, 1500, own);
      storageDown = false;
    }),
  ]);

  return {
    counts,
    async stop() {
      stopping.abort();
      await under;
      tables.fault = undefined;
      bus.faults = undefined;
      for (const place of workers.places) workers.signal(place, "SIGCONT");
    },
  };
}
