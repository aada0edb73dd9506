import { guidOf } from "../values.ts";

/** Who deploys, and into what; the same in every rehearsal. */
export const DEPLOYER = {
  tenantId: guidOf("tenant"),
  subscriptionId: guidOf("subscription"),
  objectId: guidOf("deployer"),
  clientId: guidOf("deployer's application"),
} as const;
