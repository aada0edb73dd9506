import { guidOf } from "../values.ts";

/** Who deploys, and into what; the same in every rehearsal. */
export const DEPLOYER = {
  tenantId: guidOf("tenant"),
  subscriptionId: guidOf("subscription"),
  objectId: guidOf("deployer"),
  // The Azure CLI's own, in whose name it acts: a person deploys.
  clientId: "04b07795-8ddb-461a-bbee-02f9e1bf7b46",
} as const;
