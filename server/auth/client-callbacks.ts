/**
 * Where MCP clients that are not on loopback have themselves redirected to after the sign-in, exactly. The application
 * behind OAUTH_CLIENT_ID has to list those that are to work, and loopback (`http://localhost` and `http://127.0.0.1`
 * with the paths below), as redirect URIs of its "mobile and desktop" platform: Entra compares paths, and takes any
 * port on loopback.
 */
export const CLIENT_CALLBACKS: readonly string[] = [
  // VS Code, code.visualstudio.com/api/extension-guides/ai/mcp, "Authorization"
  "https://vscode.dev/redirect",
  "https://insiders.vscode.dev/redirect",
  // Cursor, cursor.com/docs/mcp; it registers both, and one on loopback
  "cursor://anysphere.cursor-mcp/oauth/callback",
  "https://www.cursor.com/agents/mcp/oauth/callback",
  // Claude, support.claude.com, "Building custom connectors via remote MCP servers"
  "https://claude.ai/api/mcp/auth_callback",
  "https://claude.com/api/mcp/auth_callback",
];

/** Paths that clients listen at on loopback: VS Code; Claude Code and Codex; mcp-remote. */
export const LOOPBACK_CALLBACK_PATHS: readonly string[] = ["/", "/callback", "/oauth/callback"];

const LOOPBACK_HOSTS = new Set(["localhost", "127.0.0.1", "[::1]"]);

/** Whether a sign-in may end there: at a program on the user's own machine, or at a client that is known. */
export function isClientCallback(uri: string): boolean {
  if (CLIENT_CALLBACKS.includes(uri)) return true;
  const url = URL.parse(uri);
  if (url === null || url.protocol !== "http:" || !LOOPBACK_HOSTS.has(url.hostname)) return false;
  return url.username === "" && url.password === "" && url.hash === "" && !/[\s\\]/.test(uri);
}
