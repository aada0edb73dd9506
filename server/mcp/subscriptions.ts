import { ProtocolError, ProtocolErrorCode } from "@modelcontextprotocol/server";

/** Starts watching a resource; what it resolves to ends that. */
export type Watch = (uri: string, changed: () => void) => Promise<() => void>;

/** Resources that one client may watch at once. */
const LIMIT = 100;

/** The resources that one client wants to hear of. */
export class Subscriptions {
  readonly #watch: Watch;
  readonly #updated: (uri: string) => void;
  readonly #listChanged: () => void;
  readonly #stops = new Map<string, Promise<() => void>>();

  /** `updated` is called with the URI of a resource that changed, `listChanged` when the client wants others. */
  constructor(watch: Watch, updated: (uri: string) => void, listChanged: () => void = () => {}) {
    this.#watch = watch;
    this.#updated = updated;
    this.#listChanged = listChanged;
  }

  get uris(): readonly string[] {
    return [...this.#stops.keys()];
  }

  /** Rejects when the resource cannot be watched. */
  async add(uri: string): Promise<void> {
    const started = this.#stops.get(uri);
    if (started !== undefined) {
      await started;
      return;
    }
    if (this.#stops.size >= LIMIT) {
      throw new ProtocolError(
        ProtocolErrorCode.InvalidParams,
        `A client may subscribe to ${LIMIT} resources; unsubscribe from one first.`,
      );
    }
    const starting = this.#watch(uri, () => this.#updated(uri));
    this.#stops.set(uri, starting);
    try {
      await starting;
    } catch (error) {
      this.#stops.delete(uri);
      throw error;
    }
    this.#listChanged();
  }

  remove(uri: string): void {
    const started = this.#stops.get(uri);
    if (started === undefined) return;
    this.#stops.delete(uri);
    end(started);
    this.#listChanged();
  }

  clear(): void {
    for (const started of this.#stops.values()) end(started);
    this.#stops.clear();
  }
}

function end(started: Promise<() => void>): void {
  started.then(
    (stop) => stop(),
    // What never began needs no end; whoever began it was told.
    () => {},
  );
}
