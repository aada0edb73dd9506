import type { JSONRPCMessage, Transport } from "@modelcontextprotocol/client";

/** The client's end of MCP over WebSocket, for either SDK. Node's WebSocket takes headers, which browsers' do not. */
export class WebSocketClientTransport implements Transport {
  onclose?: () => void;
  onerror?: (error: Error) => void;
  onmessage?: (message: JSONRPCMessage) => void;
  readonly socket: WebSocket;

  constructor(url: URL, headers: Record<string, string> = {}) {
    const options = { protocols: ["mcp"], headers };
    // The types know the browsers' second argument only.
    this.socket = new WebSocket(url, options as unknown as string[]);
  }

  async start(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.socket.addEventListener("open", () => resolve(), { once: true });
      this.socket.addEventListener("error", () => reject(new Error("The connection was refused.")), { once: true });
    });
    this.socket.addEventListener("message", ({ data }) => {
      const message = JSON.parse(String(data)) as JSONRPCMessage;
      // Each in a turn of its own: the SDK's client puts off notifications and takes answers at once, so that of two
      // frames read together the last report of progress would come after the end of its call, and be dropped.
      setImmediate(() => this.onmessage?.(message));
    });
    this.socket.addEventListener("close", () => this.onclose?.());
  }

  async send(message: JSONRPCMessage): Promise<void> {
    this.socket.send(JSON.stringify(message));
  }

  async close(): Promise<void> {
    this.socket.close();
  }
}

/** The WebSocket endpoint beside an MCP endpoint over HTTP. */
export function websocketUrl(endpoint: URL): URL {
  const url = new URL("/mcp/ws", endpoint);
  url.protocol = "ws:";
  return url;
}
