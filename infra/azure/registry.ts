import { setTimeout as delay } from "node:timers/promises";
import { getClientToken, type RoleAssignment } from "@pulumi/azure-native/authorization/index.js";
import {
  Registry as AzureRegistry,
  type RegistryArgs as AzureRegistryArgs,
} from "@pulumi/azure-native/containerregistry/index.js";
import {
  all,
  ComponentResource,
  type ComponentResourceOptions,
  log,
  type Output,
  runtime,
  secret,
} from "@pulumi/pulumi";
import { z } from "zod";
import { globalName } from "../naming.ts";
import type { Settings } from "../settings.ts";
import type { Principal } from "./principal.ts";
import { onceReachable, PrivateEndpoint, type PrivateLink } from "./private-endpoint.ts";
import { assignRole, settled } from "./role-assignment.ts";
import type { Site } from "./site.ts";
import type { Telemetry } from "./telemetry.ts";

export interface RegistryArgs {
  readonly site: Site;
  readonly settings: Pick<Settings, "registry" | "managementPlanes">;
  readonly telemetry: Telemetry;
  /** Present with private endpoints, which only a Premium registry has. */
  readonly privateLink?: PrivateLink;
}

/** What `docker login` takes. */
export interface RegistryLogin {
  readonly server: string;
  readonly username: string;
  readonly password: string;
}

/** The user name that says "the password is a token" (ACR: "Authenticate with an Azure container registry"). */
const TOKEN_USER = "00000000-0000-0000-0000-000000000000";
/** Stands for the token where no image is pushed. */
const NO_TOKEN = "not-fetched-in-a-preview";
const PUSH_ROLE_MINUTES = 2;

/** The container registry. A month: Basic 5 USD, Standard 20, Premium 50. */
export class Registry extends ComponentResource {
  readonly name: Output<string>;
  readonly id: Output<string>;
  /** `<name>.azurecr.io`. */
  readonly loginServer: Output<string>;

  readonly #site: Site;
  readonly #mayPush: readonly RoleAssignment[];

  constructor(name: string, args: RegistryArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:Registry", name, {}, opts);
    this.#site = args.site;
    const registry = this.#createRegistry(name, args);
    const endpoint =
      args.privateLink &&
      new PrivateEndpoint(
        `${name}-link`,
        { site: args.site, link: args.privateLink, service: "registry", targetId: registry.id },
        { parent: this },
      );
    args.telemetry.collect(name, registry.id, ["ContainerRegistryLoginEvents", "ContainerRegistryRepositoryEvents"]);

    this.name = registry.name;
    this.id = registry.id;
    this.loginServer = onceReachable(registry.loginServer, endpoint);
    this.#mayPush = args.site.admins.map((admin) => this.#grant(admin, "acr-push"));
    this.registerOutputs({ loginServer: this.loginServer });
  }

  /** Lets `principal` pull every image, and nothing else. */
  grantPull(principal: Principal): RoleAssignment {
    return this.#grant(principal, "acr-pull");
  }

  /**
   * A login for pushing, good for three hours. It comes from the deployer's own Azure login, so that the registry needs
   * no password of its own. Not fetched in a preview.
   */
  pushToken(): Output<RegistryLogin> {
    const login = all([this.loginServer, all(this.#mayPush.map((role) => settled(role, PUSH_ROLE_MINUTES)))]).apply(
      async ([server]) => ({
        server,
        username: TOKEN_USER,
        password: runtime.isDryRun() ? NO_TOKEN : await exchangeToken(server, this.#site.tenantId),
      }),
    );
    return secret(login);
  }

  #createRegistry(name: string, { site, settings, privateLink }: RegistryArgs): AzureRegistry {
    const { sku } = settings.registry;
    const access = networkAccess(sku, settings.managementPlanes, privateLink !== undefined);
    const registry = new AzureRegistry(
      name,
      {
        resourceGroupName: site.resourceGroupName,
        registryName: site.suffix.apply((suffix) => globalName("registry", site.parts, suffix)),
        location: site.location,
        tags: site.tags,
        sku: { name: sku },
        // One shared password for everything; Entra identities push and pull here.
        adminUserEnabled: false,
        anonymousPullEnabled: false,
        dataEndpointEnabled: false,
        ...access.properties,
        ...(sku === "Premium" ? PREMIUM_ONLY : {}),
        // Every tier spreads over zones by itself, whatever this says; "Enabled" fails in regions without zones.
        zoneRedundancy: "Disabled",
      },
      { parent: this, protect: site.protect },
    );
    if (access.warning !== undefined) log.warn(access.warning, registry);
    return registry;
  }

  #grant(principal: Principal, role: "acr-pull" | "acr-push"): RoleAssignment {
    return assignRole({ site: this.#site, principal, role, on: { name: "registry", id: this.id } }, { parent: this });
  }
}

const PREMIUM_ONLY = {
  // Lets a promoted digest be imported from another closed registry, which Azure counts as a trusted service.
  networkRuleBypassOptions: "AzureServices",
  policies: {
    // Untagged images are not litter here: what runs is named by digest, and cleaning them up would leave a restarted
    // pod without its image.
    retentionPolicy: { status: "disabled" },
    exportPolicy: { status: "enabled" },
    quarantinePolicy: { status: "disabled" },
    trustPolicy: { status: "disabled" },
  },
} satisfies Partial<AzureRegistryArgs>;

type Access = Pick<AzureRegistryArgs, "publicNetworkAccess" | "networkRuleSet">;

/** Who reaches the registry. Whatever cannot be narrowed as asked is said, not hidden. */
export function networkAccess(
  sku: Settings["registry"]["sku"],
  planes: Settings["managementPlanes"],
  hasPrivateEndpoint: boolean,
): { properties: Access; warning?: string } {
  const open: Access = { publicNetworkAccess: "Enabled" };
  if (sku !== "Premium") {
    // Network rules are a Premium feature; Azure refuses the property on the other tiers.
    const warning = `mcp:authorizedRanges does not bind a ${sku} registry, which has no network rules: logins are checked, addresses are not. Set mcp:registrySku to "Premium" and mcp:privateEndpoints to "on" to narrow it.`;
    return planes.access === "ranges" ? { properties: open, warning } : { properties: open };
  }
  switch (planes.access) {
    case "private":
      return {
        properties: { publicNetworkAccess: "Disabled", networkRuleSet: { defaultAction: "Deny", ipRules: [] } },
      };
    case "public":
      return { properties: { ...open, networkRuleSet: { defaultAction: "Allow", ipRules: [] } } };
    case "ranges": {
      // Nodes without a private endpoint pull through the cluster's outgoing address, which does not exist yet.
      if (!hasPrivateEndpoint) {
        const warning =
          'mcp:authorizedRanges does not bind the registry while mcp:privateEndpoints is "off": the nodes pull from its public address. Set it to "on" to narrow the registry.';
        return { properties: { ...open, networkRuleSet: { defaultAction: "Allow", ipRules: [] } }, warning };
      }
      const ipRules = planes.ranges.map((range) => ({ action: "Allow", iPAddressOrRange: range }));
      return { properties: { ...open, networkRuleSet: { defaultAction: "Deny", ipRules } } };
    }
  }
}

const Exchange = z.object({ refresh_token: z.string().min(1) });
// A new registry's name takes a little to resolve everywhere; a new role is waited for before.
const ATTEMPTS = 6;
const PAUSE_MS = 10_000;

/**
 * Trades the deployer's Azure token for one of the registry (ACR: "POST /oauth2/exchange").
 *
 * @throws Error naming registry and status after six attempts; the tokens are never part of it.
 */
export async function exchangeToken(server: string, tenantId: string, pauseMs = PAUSE_MS): Promise<string> {
  const { token } = await getClientToken();
  let failure = "";
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    if (attempt > 1) await delay(pauseMs);
    try {
      const answer = await fetch(`https://${server}/oauth2/exchange`, {
        method: "POST",
        body: new URLSearchParams({
          grant_type: "access_token",
          service: server,
          tenant: tenantId,
          access_token: token,
        }),
        signal: AbortSignal.timeout(30_000),
      });
      if (answer.ok) return Exchange.parse(await answer.json()).refresh_token;
      failure = `HTTP ${answer.status}`;
    } catch (error) {
      failure = error instanceof Error ? error.message : String(error);
    }
  }
  throw new Error(
    `Could not log in to registry ${server}: ${failure}. Deploy from an address that the registry admits (mcp:authorizedRanges, or inside mcp:runnerNetworkId), as someone with AcrPush on it.`,
  );
}
