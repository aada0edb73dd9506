import { ServiceBusClient } from "@azure/service-bus";

/*
 * Loaded before a server: at SIGUSR2 it leaves a promise of Azure's client to nobody, which is rejected, and at a second
 * one a promise of its own.
 */

const place = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=none;SharedAccessKey=none;UseDevelopmentEmulator=true;";

process.once("SIGUSR2", () => {
  const client = new ServiceBusClient(place, { retryOptions: { maxRetries: 0 } });
  void client.createSender("none").sendMessages({ body: "" });
  process.once("SIGUSR2", () => void Promise.reject(new TypeError("Nobody handles this.")));
});
