/** Where Azure's client for Service Bus has its code. */
const CLIENT = /[\\/]node_modules[\\/](?:@azure[\\/](?:service-bus|core-amqp)|rhea(?:-promise)?)[\\/]/;

/**
 * Whether a rejection that nobody handles is of a promise that Azure's client for Service Bus gives to nobody, such as
 * that of closing a link which was cut (Azure/azure-sdk-for-js, issue 39348). It leaves nothing half done here: what was
 * asked of the client fails by itself or is given up in time, and this process's other work goes on.
 */
export function isStray(error: unknown): boolean {
  return error instanceof Error && CLIENT.test(error.stack ?? "");
}
