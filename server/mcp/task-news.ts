import { CLIENT_CAPABILITIES_META_KEY, MissingRequiredClientCapabilityError } from "@modelcontextprotocol/server";
import { z } from "zod";
import { TASKS_EXTENSION } from "./task-forms.ts";

const Listen = z.object({
  params: z.object({
    _meta: z.object({ [CLIENT_CAPABILITIES_META_KEY]: z.object({ extensions: z.record(z.string(), z.unknown()) }) }),
    notifications: z.object({ taskIds: z.array(z.string()) }),
  }),
});
const Asks = z.object({ params: Listen.shape.params.pick({ notifications: true }) });

/**
 * Why a `subscriptions/listen` is refused that asks for news of tasks (SEP-2663, "Protocol Errors"): its client does not
 * say that it knows what tasks are. Undefined: it is not; of tasks nothing is told on streams, and the acknowledgement
 * names none.
 */
export function newsFault(message: unknown): MissingRequiredClientCapabilityError | undefined {
  if (!Asks.safeParse(message).success) return undefined;
  const capabilities = Listen.safeParse(message).data?.params._meta[CLIENT_CAPABILITIES_META_KEY];
  if (capabilities !== undefined && Object.hasOwn(capabilities.extensions, TASKS_EXTENSION)) return undefined;
  return missingTasks();
}

/** What a client is told that has not said it takes tasks, where it must. */
export function missingTasks(): MissingRequiredClientCapabilityError {
  return new MissingRequiredClientCapabilityError({ requiredCapabilities: { extensions: { [TASKS_EXTENSION]: {} } } });
}
