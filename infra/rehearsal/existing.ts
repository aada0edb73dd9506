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
const Admins = Json.pipe(z.array(z.string()));

/**
 * What the settings name and the stack does not make: the runner's network and the admins. Settings that do not parse
 * are the program's to refuse.
 */
export function existingBefore(config: Readonly<Record<string, string>>): AzureBefore {
  const network = config["mcp:runnerNetworkId"];
  const admins = Admins.safeParse(config["mcp:admins"] ?? "[]").data ?? [];
  return {
    resourceIds: network ? [network] : [],
    principals: Object.fromEntries(
      admins.flatMap((admin) => {
        const [type, objectId] = admin.split(":");
        return type === undefined || objectId === undefined
          ? []
          : [
              [objectId, type],
              [objectId.toLowerCase(), type],
            ];
      }),
    ),
  };
}
