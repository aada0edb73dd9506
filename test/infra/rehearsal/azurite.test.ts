import { readdir } from "node:fs/promises";
import { AzureNamedKeyCredential, TableClient } from "@azure/data-tables";
import { expect, test } from "vitest";
import { Azurite } from "../../../infra/rehearsal/azurite.ts";
import { EMULATOR_ACCOUNT } from "../../../server/services/jobs/emulator-account.ts";

test("Table and Blob storage run on loopback until they are closed, and leave nothing behind", async () => {
  const azurite = await Azurite.start();
  for (const endpoint of [azurite.tableEndpoint, azurite.blobEndpoint]) {
    expect(endpoint).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/devstoreaccount1$/);
  }
  // Twice: a rehearsal that is told the same name for two things does not fail.
  for (const _ of [1, 2]) {
    await azurite.createTable("jobs");
    await azurite.createContainer("jobs");
  }
  const credential = new AzureNamedKeyCredential(EMULATOR_ACCOUNT.name, EMULATOR_ACCOUNT.key);
  const table = new TableClient(azurite.tableEndpoint, "jobs", credential, { allowInsecureConnection: true });
  await table.createEntity({ partitionKey: "a", rowKey: "b", kept: true });
  expect(await table.getEntity("a", "b")).toMatchObject({ kept: true });
  await azurite.close();
  await expect(fetch(azurite.tableEndpoint)).rejects.toThrow();
  await expect(fetch(azurite.blobEndpoint)).rejects.toThrow();
  // What it writes when it is not told to keep all in memory.
  expect((await readdir(process.cwd())).filter((name) => /azurite|storage__/i.test(name))).toEqual([]);
});
