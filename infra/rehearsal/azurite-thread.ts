import { createRequire } from "node:module";
import { parentPort } from "node:worker_threads";

/*
 * Azurite's Blob and Table services, on free ports of loopback, in a thread of their own: see `azurite.ts`. It tells the
 * two addresses, and listens until the thread is ended.
 *
 * Azurite has no interface but its command line, which starts a queue service too and prints; these are the classes that
 * the command line is made of. Telemetry and logs are begun by the command line alone.
 */

interface Service {
  start(): Promise<void>;
  getHttpServerAddress(): string;
}
type Class<Args extends readonly unknown[], Instance> = new (...args: Args) => Instance;

// CommonJS without types. The arguments are in the order of its release 3.35.
const require = createRequire(import.meta.url);
const load = (path: string): unknown => (require(`azurite/dist/src/${path}.js`) as { default: unknown }).default;
const BlobConfiguration = load("blob/BlobConfiguration") as Class<readonly unknown[], object>;
const BlobServer = load("blob/BlobServer") as Class<[object], Service>;
const TableConfiguration = load("table/TableConfiguration") as Class<readonly unknown[], object>;
const TableServer = load("table/TableServer") as Class<[object], Service>;

const HOST = "127.0.0.1";
const ANY_PORT = 0;
const KEEP_ALIVE_SECONDS = 5;
/** Nothing is written to it, since all is kept in memory. */
const NO_FILE = "/dev/null/azurite";
/** A new release of a client speaks a version of the protocol that Azurite has not heard of yet. */
const SKIP_API_VERSION_CHECK = true;
const IN_MEMORY = true;
const NO_ACCESS_LOG = [false, undefined] as const;
const NO_DEBUG_LOG = [false, undefined] as const;
const NO_CERTIFICATE = ["", "", ""] as const;
const NO_OAUTH = undefined;
const STRICT = false;
const KEEP_PRODUCT_STYLE_URL = false;

const common = [STRICT, SKIP_API_VERSION_CHECK, ...NO_CERTIFICATE, NO_OAUTH, KEEP_PRODUCT_STYLE_URL, IN_MEMORY];
const services = [
  new BlobServer(
    new BlobConfiguration(
      ...[HOST, ANY_PORT, KEEP_ALIVE_SECONDS, NO_FILE, NO_FILE, []],
      ...NO_ACCESS_LOG,
      ...NO_DEBUG_LOG,
      ...common,
    ),
  ),
  new TableServer(
    new TableConfiguration(
      ...[HOST, ANY_PORT, KEEP_ALIVE_SECONDS, NO_FILE],
      // This one has its debug switch in front of the access log, and its file behind.
      ...[false, ...NO_ACCESS_LOG, undefined],
      ...common,
    ),
  ),
];
await Promise.all(services.map((service) => service.start()));
parentPort?.postMessage(services.map((service) => service.getHttpServerAddress()));
