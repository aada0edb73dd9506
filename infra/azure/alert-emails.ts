import { ActionGroup } from "@pulumi/azure-native/monitor/index.js";
import { ComponentResource, type ComponentResourceOptions, type Output } from "@pulumi/pulumi";
import { localName } from "../naming.ts";
import type { Site } from "./site.ts";

export interface AlertEmailsArgs {
  readonly site: Site;
  /** Addresses, each once. Azure tells each by mail that it was added, with a way out. */
  readonly addresses: readonly string[];
}

/** Azure: characters of the name by which an action group signs. */
const MOST_CHARACTERS = 12;

/** Whom Azure Monitor writes to when one of its alerts fires, and when it ends. Free up to a thousand mails a month. */
export class AlertEmails extends ComponentResource {
  /** Resource id of the action group, for alerts to name. */
  readonly actionGroupId: Output<string>;

  constructor(name: string, { site, addresses }: AlertEmailsArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:AlertEmails", name, {}, opts);
    const group = new ActionGroup(
      name,
      {
        resourceGroupName: site.resourceGroupName,
        actionGroupName: localName("actionGroup", site.parts),
        groupShortName: `${site.parts.name}-${site.parts.stack}`.slice(0, MOST_CHARACTERS),
        // Action groups belong to no region unless data must stay in one.
        location: "global",
        tags: site.tags,
        enabled: true,
        emailReceivers: addresses.map((address) => ({
          name: address,
          emailAddress: address,
          useCommonAlertSchema: true,
        })),
      },
      { parent: this },
    );
    this.actionGroupId = group.id;
    this.registerOutputs({ actionGroupId: this.actionGroupId });
  }
}
