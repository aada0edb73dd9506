import { setTimeout as delay } from "node:timers/promises";
import { getClientToken } from "@pulumi/azure-native/authorization/index.js";
import { log, RunError, runtime } from "@pulumi/pulumi";
import { z } from "zod";
import type { Settings } from "../settings.ts";

/** Resource providers behind the resources of every stack. AKS itself needs Compute, Network and Storage. */
const REQUIRED = [
  "Microsoft.Compute",
  "Microsoft.ContainerRegistry",
  "Microsoft.ContainerService",
  "Microsoft.Insights",
  "Microsoft.KeyVault",
  "Microsoft.ManagedIdentity",
  "Microsoft.Network",
  "Microsoft.OperationalInsights",
  "Microsoft.ServiceBus",
  "Microsoft.Storage",
] as const;

const ARM = "https://management.azure.com";
const API_VERSION = "2021-04-01"; // ARM REST, "Providers - Get" and "Providers - Register"
const PATIENCE_MS = 5 * 60_000;
const POLL_MS = 10_000;

/** For deployers that may not look at the subscription; the name is that of Terraform's azurerm provider. */
const SKIP = "ARM_SKIP_PROVIDER_REGISTRATION";

const Provider = z.object({ registrationState: z.string() });

/** Namespaces that a stack of these settings needs registered. */
export function requiredProviders(settings: Pick<Settings, "cache">): readonly string[] {
  return settings.cache ? [...REQUIRED, "Microsoft.Cache"] : REQUIRED;
}

/**
 * Registers what a fresh subscription lacks, before anything is created. First-deployment failure 14: Azure registers
 * some namespaces by itself on first use, but not Microsoft.Insights, which diagnostic settings need
 * (pulumi-azure-native #3479), and not those that AKS uses behind the scenes.
 *
 * Does nothing in a preview, and only warns when the subscription cannot be asked.
 *
 * @throws RunError naming the namespaces that are missing and that the deployer may not register.
 */
export async function registerResourceProviders(subscriptionId: string, namespaces: readonly string[]): Promise<void> {
  if (runtime.isDryRun() || process.env[SKIP] === "true") return;
  const { token } = await getClientToken();
  const ask = (method: "GET" | "POST", path: string) =>
    fetch(`${ARM}/subscriptions/${subscriptionId}/providers/${path}?api-version=${API_VERSION}`, {
      method,
      headers: { authorization: `Bearer ${token}` },
      signal: AbortSignal.timeout(30_000),
    });

  let missing: readonly string[];
  try {
    missing = await unregistered(namespaces, ask);
  } catch (error) {
    await log.warn(
      `Could not check which resource providers are registered (${reason(error)}); set ${SKIP}=true to stop asking.`,
    );
    return;
  }
  if (missing.length === 0) return;

  const answers = await Promise.all(missing.map((namespace) => ask("POST", `${namespace}/register`)));
  const refused = missing.filter((_, i) => answers[i]?.ok !== true);
  if (refused.length > 0) {
    const mend = refused.map((n) => `  az provider register --namespace ${n}`).join("\n");
    throw new RunError(
      `Subscription ${subscriptionId} has ${refused.join(", ")} not registered, and you may not register them. Ask an owner to run:\n${mend}`,
    );
  }

  await log.info(`Registering ${missing.join(", ")}; a subscription needs this once.`);
  const deadline = Date.now() + PATIENCE_MS;
  while ((await unregistered(missing, ask)).length > 0) {
    if (Date.now() > deadline) {
      await log.warn(`${missing.join(", ")} still register; if the deployment fails for it, run it again.`);
      return;
    }
    await delay(POLL_MS);
  }
}

async function unregistered(
  namespaces: readonly string[],
  ask: (method: "GET", path: string) => Promise<Response>,
): Promise<readonly string[]> {
  const states = await Promise.all(
    namespaces.map(async (namespace) => {
      const answer = await ask("GET", namespace);
      if (!answer.ok) throw new Error(`HTTP ${answer.status} for ${namespace}`);
      return Provider.parse(await answer.json()).registrationState;
    }),
  );
  return namespaces.filter((_, i) => states[i] !== "Registered");
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
