import { AccessPolicyAssignment, Database, RedisEnterprise } from "@pulumi/azure-native/redisenterprise/index.js";
import { all, ComponentResource, type ComponentResourceOptions, type Output } from "@pulumi/pulumi";
import { globalName } from "../naming.ts";
import type { Settings } from "../settings.ts";
import type { Principal } from "./principal.ts";
import { onceReachable, PrivateEndpoint, type PrivateLink } from "./private-endpoint.ts";
import type { Site } from "./site.ts";

export interface CacheArgs {
  readonly site: Site;
  readonly settings: NonNullable<Settings["cache"]>;
  /** Present with private endpoints. */
  readonly privateLink?: PrivateLink;
}

/** Azure Managed Redis listens here, TLS only. */
const PORT = 10000;
/** The one name that a database can have. */
const DATABASE = "default";

/** Cache and rate limits that replicas share: Azure Managed Redis. A month, with a second node: B0 30 to 60 USD, B1 60 to 110. */
export class Cache extends ComponentResource {
  readonly host: Output<string>;
  readonly port = PORT;

  readonly #name: string;
  readonly #site: Site;
  readonly #cluster: RedisEnterprise;
  readonly #database: Database;
  readonly #users: AccessPolicyAssignment[] = [];

  constructor(name: string, args: CacheArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:Cache", name, {}, opts);
    this.#name = name;
    this.#site = args.site;
    this.#cluster = this.#createCluster(args);
    this.#database = this.#createDatabase(args.site);
    const endpoint =
      args.privateLink &&
      new PrivateEndpoint(
        `${name}-link`,
        { site: args.site, link: args.privateLink, service: "redis", targetId: this.#cluster.id },
        { parent: this },
      );
    // Useful only with a database behind it.
    const host = all([this.#cluster.hostName, this.#database.id]).apply(([hostName]) => hostName);
    this.host = onceReachable(host, endpoint);
    this.registerOutputs({ host: this.host });
  }

  /** Lets `principal` use the database, keys and commands alike: the only policy that Managed Redis has. */
  grantUse(principal: Principal): AccessPolicyAssignment {
    const assignment = new AccessPolicyAssignment(
      `${this.#name}-${principal.name}`,
      {
        resourceGroupName: this.#site.resourceGroupName,
        clusterName: this.#cluster.name,
        databaseName: this.#database.name,
        // Letters and digits only.
        accessPolicyAssignmentName: principal.name.replaceAll(/[^A-Za-z0-9]/g, ""),
        accessPolicyName: "default",
        user: { objectId: principal.principalId },
      },
      // One after the other: the database takes one change at a time.
      { parent: this, dependsOn: this.#users.at(-1) },
    );
    this.#users.push(assignment);
    return assignment;
  }

  #createCluster({ site, settings, privateLink }: CacheArgs): RedisEnterprise {
    return new RedisEnterprise(
      this.#name,
      {
        resourceGroupName: site.resourceGroupName,
        clusterName: site.suffix.apply((suffix) => globalName("redis", site.parts, suffix)),
        location: site.location,
        tags: site.tags,
        // No capacity, no zones: these sizes spread by themselves and refuse both.
        sku: { name: settings.sku },
        highAvailability: settings.highAvailability ? "Enabled" : "Disabled",
        minimumTlsVersion: "1.2",
        publicNetworkAccess: privateLink ? "Disabled" : "Enabled",
      },
      // Takes 10 to 30 minutes; nothing but the server's start waits for it.
      { parent: this, protect: site.protect, customTimeouts: { create: "90m", update: "90m", delete: "60m" } },
    );
  }

  #createDatabase(site: Site): Database {
    return new Database(
      `${this.#name}-database`,
      {
        resourceGroupName: site.resourceGroupName,
        clusterName: this.#cluster.name,
        databaseName: DATABASE,
        port: PORT,
        clientProtocol: "Encrypted",
        // One address for a plain client; the default, OSSCluster, sends clients on to nodes by address.
        clusteringPolicy: "EnterpriseCluster",
        // Everything in it expires; under pressure the oldest goes first.
        evictionPolicy: "VolatileLRU",
        // Entra tokens only.
        accessKeysAuthentication: "Disabled",
        // A cache: nothing in it is missed after a restart.
        persistence: { aofEnabled: false, rdbEnabled: false },
      },
      {
        parent: this,
        customTimeouts: { create: "60m", update: "60m", delete: "60m" },
        // Azure refuses to change these; the plan should show the new database that it takes. It can have no other name,
        // so the old one goes first.
        replaceOnChanges: ["clusteringPolicy", "port"],
        deleteBeforeReplace: true,
      },
    );
  }
}
