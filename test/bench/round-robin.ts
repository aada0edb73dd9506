import { type AddressInfo, connect, createServer } from "node:net";

/*
 * What stands before several processes in the bench, in a process of its own: `node round-robin.ts <port>...`. Each
 * connection goes to the next process, as with a Kubernetes Service, and what is sent over it is not looked at. Tells its
 * port to the process that started it.
 */

const HOST = "127.0.0.1";
const ports = process.argv.slice(2).map(Number);
let turn = 0;

const server = createServer({ noDelay: true }, (client) => {
  const upstream = connect({ host: HOST, port: ports[turn++ % ports.length] ?? 0, noDelay: true });
  client.pipe(upstream).pipe(client);
  // The other side sees the end of it, which counts as a failed request there if it is one.
  for (const [one, other] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    one.once("error", () => other.destroy());
    one.once("close", () => other.destroy());
  }
});
server.listen(0, HOST, () => {
  process.on("disconnect", () => process.exit(0));
  process.send?.({ port: (server.address() as AddressInfo).port });
});
