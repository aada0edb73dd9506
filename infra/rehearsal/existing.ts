import { z } from "zod";
import type { AzureBefore } from "./azure/azure.ts";

const Json = z.string().transform((json, context): unknown => {
  try {
    return JSON.parse(json);
  } catch {
    context.addIssue("not JSON");
    return z.NEVER;
  }
});
const Lines = Json.pipe(z.array(z.string()));

const KINDS: Readonly<Record<string, string>> = { user: "User", group: "Group", serviceprincipal: "ServicePrincipal" };

/**
 * What the settings name and the stack does not make: the runner's network, the admins, and who may call. Settings that
 * do not parse are the program's to refuse.
 */
export function existingBefore(config: Readonly<Record<string, string>>): AzureBefore {
  const network = config["mcp:runnerNetworkId"];
  const parts = (key: string) => (Lines.safeParse(config[key] ?? "[]").data ?? []).map((line) => line.split(":"));
  const named = [
    ...parts("mcp:admins"),
    ...parts("mcp:roleAssignments").map(([, kind = "", objectId]) => [KINDS[kind.toLowerCase()], objectId]),
  ];
  return {
    resourceIds: network ? [network] : [],
    principals: Object.fromEntries(
      named.flatMap(([type, objectId]) =>
        type === undefined || objectId === undefined
          ? []
          : [
              [objectId, type],
              [objectId.toLowerCase(), type],
            ],
      ),
    ),
  };
}
