import { CONTAINER_TYPES } from "./containers.ts";
import { DATA_TYPES } from "./data.ts";
import { FOUNDATION_TYPES } from "./foundation.ts";
import { LOG_INGESTION_TYPES } from "./log-ingestion.ts";
import { NETWORK_TYPES } from "./network.ts";
import type { AzureType } from "./resource-type.ts";
import { STORAGE_TYPES } from "./storage.ts";
import { TELEMETRY_TYPES } from "./telemetry.ts";

/** Every Azure resource type that the rehearsal knows, by its Pulumi token. Another one is refused by name. */
export const AZURE_TYPES: Readonly<Record<string, AzureType>> = {
  ...FOUNDATION_TYPES,
  ...NETWORK_TYPES,
  ...CONTAINER_TYPES,
  ...DATA_TYPES,
  ...STORAGE_TYPES,
  ...TELEMETRY_TYPES,
  ...LOG_INGESTION_TYPES,
};
