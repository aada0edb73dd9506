import { ProtocolError, ProtocolErrorCode } from "@modelcontextprotocol/server";

/** Starts watching a resource; the returned function ends it. */
export type Watch = (uri: string, changed: () => void) => () => void;

/** Resources that one client may watch at once. */
const LIMIT = 100;

/** The resources that one client wants to hear of. */
export class Subscriptions {
  readonly #watch: Watch;
  readonly #updated: (uri: string) => void;
  readonly #listChanged: () => void;
  readonly #stops = new Map<string, () => void>();

  /** `updated` is called with the URI of a resource that changed, `listChanged` when the client wants others. */
  constructor(watch: Watch, updated: (uri: string) => void, listChanged: () => void = () => {}) {
    this.#watch = watch;
    this.#updated = updated;
    this.#listChanged = listChanged;
  }

  get uris(): readonly string[] {
    return [...this.#stops.keys()];
  }

  add(uri: string): void {
    if (this.#stops.has(uri)) return;
    if (this.#stops.size >= LIMIT) {
      throw new ProtocolError(
        ProtocolErrorCode.InvalidParams,
        `A client may subscribe to ${LIMIT} resources; unsubscribe from one first.`,
      );
    }
    this.#stops.set(
      uri,
      this.#watch(uri, () => this.#updated(uri)),
    );
    this.#listChanged();
  }

  remove(uri: string): void {
    this.#stops.get(uri)?.();
    if (this.#stops.delete(uri)) this.#listChanged();
  }

  clear(): void {
    for (const stop of this.#stops.values()) stop();
    this.#stops.clear();
  }
}
