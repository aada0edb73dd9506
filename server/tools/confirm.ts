import { acceptedContent, type InputRequest } from "@modelcontextprotocol/server";
import { z } from "zod";
import { type ClientChannel, InputNeeded } from "./client-channel.ts";

/** The key under which a call asks for its one confirmation. */
const KEY = "confirm";

const Answer = z.object({ confirm: z.boolean() });

/** Whether the user agreed, refused, or could not be asked because the client has no way to. */
export type Confirmation = "agreed" | "refused" | "cannot ask";

/**
 * Asks the user of the client to agree to `question`. Call it before anything is changed: the first time round it
 * throws {@link InputNeeded}, and the call is run again with the answer.
 */
export function confirm(client: ClientChannel, question: string): Confirmation {
  if (!asksByForm(client)) return "cannot ask";
  const answer = client.answers[KEY];
  if (answer === undefined) throw new InputNeeded({ requests: { [KEY]: formOf(question) } });
  // Declined, dismissed, and whatever else is not a clear yes.
  return acceptedContent({ [KEY]: answer }, KEY, Answer)?.confirm === true ? "agreed" : "refused";
}

/** An empty `elicitation` capability means forms (MCP specification, Elicitation, "Capabilities"). */
function asksByForm({ capabilities: { elicitation } }: ClientChannel): boolean {
  return elicitation !== undefined && (elicitation.form !== undefined || elicitation.url === undefined);
}

function formOf(message: string): InputRequest {
  return {
    method: "elicitation/create",
    params: {
      mode: "form",
      message,
      requestedSchema: {
        type: "object",
        properties: { confirm: { type: "boolean", title: "Yes, do it", default: false } },
        required: ["confirm"],
      },
    },
  };
}
