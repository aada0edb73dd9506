import { UnreadableJob } from "../../../server/services/jobs/store.ts";
import { refusalOf } from "../../../server/services/jobs/store-calls.ts";
import { CliError } from "../cli-error.ts";
import type { JobPlace } from "./job-place.ts";

/** Azure's word for "not from this address"; without the role it says AuthorizationPermissionMismatch. */
const NOT_FROM_HERE = "AuthorizationFailure";

/** What clients say when nothing answers under the name, or the name is nobody's. */
const NO_ANSWER: ReadonlySet<unknown> = new Set([
  "ENOTFOUND",
  "EAI_AGAIN",
  "ECONNREFUSED",
  "ECONNRESET",
  "ETIMEDOUT",
  "REQUEST_SEND_ERROR",
  "ServiceCommunicationProblem",
  "ServiceTimeout",
]);
/** The client for Service Bus has them in the message alone: `ENOTFOUND: getaddrinfo ENOTFOUND ...`. */
const codeIn = ({ message }: Error): string | undefined => /^(E[A-Z_]+): /.exec(message)?.[1];

/** What to do about a queue or a store that does not do what it is asked; every other error comes back as it is. */
export function unreachable(error: unknown, place: JobPlace): unknown {
  if (!(error instanceof Error) || error instanceof CliError) return error;
  if (error instanceof UnreadableJob) return new CliError(error.message, undefined, { cause: error });
  // Tries that all failed: the last one's error is as good as the others'.
  if (error instanceof AggregateError && error.message === "" && error.errors.length > 0) {
    return unreachable(error.errors.at(-1), place);
  }
  const { serviceBus, tableEndpoint, from } = place;
  const [said = ""] = error.message.split("\n");
  const { status, code: refusal } = refusalOf(error);
  const code = codeIn(error) ?? refusal;
  const because = (mend: string) =>
    new CliError(`The jobs in ${serviceBus} and ${tableEndpoint} cannot be reached: ${said}\n${mend}`, undefined, {
      cause: error,
    });
  if (error.name.includes("Authentication") || error.name.includes("CredentialUnavailable")) {
    return because("Log in first: az login.");
  }
  if (code === NOT_FROM_HERE || NO_ANSWER.has(code)) return because(`They are reached from ${from}.`);
  if (code === "UnauthorizedAccess" || status === 401 || status === 403) {
    return because(
      "It takes the roles Azure Service Bus Data Receiver and Data Sender on the queues, and Storage Table Data " +
        `Contributor and Storage Blob Data Contributor on table and container (mcp:admins have them), from ${from}.`,
    );
  }
  if (code === "MessagingEntityNotFound" || status === 404) {
    return because("The queue or the table is not there: deploy the stack again (pulumi up).");
  }
  return status === undefined && code === undefined ? error : because("What it says is all that is known.");
}
