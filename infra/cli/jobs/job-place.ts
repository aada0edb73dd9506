import { z } from "zod";

/** Where a stack has its jobs: the output `jobs` of outputs.ts, or what a rehearsal that runs says of its emulators. */
export const JobPlace = z.object({
  /** `<namespace>.servicebus.windows.net`, or `localhost:<port>` of an emulator. */
  serviceBus: z.string().min(1),
  queue: z.string().min(1),
  orderedQueue: z.string().min(1),
  tableEndpoint: z.url(),
  tableName: z.string().min(1),
  blobEndpoint: z.url(),
  blobContainer: z.string().min(1),
  /** From where all this can be reached, for people. */
  from: z.string(),
});
export type JobPlace = Readonly<z.output<typeof JobPlace>>;
