import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { z } from "zod";
import { EMULATOR_ACCOUNT } from "../../server/services/jobs/emulator-account.ts";

/**
 * Table and Blob storage on this machine: Azurite, as npm brings it, with everything in memory.
 *
 * It runs in a thread of this process. So it cannot outlive it, starts faster than a process (half a second against
 * three quarters, most of it loading), and answers while this thread is busy.
 */
export class Azurite {
  /** `http://127.0.0.1:<port>/devstoreaccount1` */
  readonly tableEndpoint: string;
  /** The same for blobs. */
  readonly blobEndpoint: string;
  readonly #thread: Worker;

  private constructor(thread: Worker, blobs: string, tables: string) {
    this.#thread = thread;
    this.blobEndpoint = `${blobs}/${EMULATOR_ACCOUNT.name}`;
    this.tableEndpoint = `${tables}/${EMULATOR_ACCOUNT.name}`;
  }

  static async start(): Promise<Azurite> {
    // What it would print is of no use to whoever starts it: failures come as errors.
    const thread = new Worker(new URL("./azurite-thread.ts", import.meta.url), { stdout: true });
    const [addresses] = await once(thread, "message");
    const [blobs, tables] = z.tuple([z.url(), z.url()]).parse(addresses);
    thread.unref();
    return new Azurite(thread, blobs, tables);
  }

  /** Makes a table, of 3 to 63 letters and digits; one that is there already is left as it is. */
  async createTable(name: string): Promise<void> {
    const { AzureNamedKeyCredential, TableClient } = await import("@azure/data-tables");
    const credential = new AzureNamedKeyCredential(EMULATOR_ACCOUNT.name, EMULATOR_ACCOUNT.key);
    await new TableClient(this.tableEndpoint, name, credential, { allowInsecureConnection: true }).createTable();
  }

  /** Makes a container that nobody reads without a key; one that is there already is left as it is. */
  async createContainer(name: string): Promise<void> {
    const { ContainerClient, StorageSharedKeyCredential } = await import("@azure/storage-blob");
    const credential = new StorageSharedKeyCredential(EMULATOR_ACCOUNT.name, EMULATOR_ACCOUNT.key);
    await new ContainerClient(`${this.blobEndpoint}/${name}`, credential).createIfNotExists();
  }

  /** Ends it, and with it all that it keeps. */
  async close(): Promise<void> {
    await this.#thread.terminate();
  }
}
