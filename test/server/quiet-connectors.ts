import { type Connectors, createConnectors } from "../../server/services/resilience.ts";

/** Connectors of this test's own, which nobody counts. */
export const quietConnectors = (): Connectors =>
  createConnectors(() => ({ requested() {}, failed() {}, healthy() {}, circuit() {} }));
