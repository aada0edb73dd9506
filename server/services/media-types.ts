import { extname } from "node:path";

/** IANA media types of what workspaces hold most; the rest is told apart by its content. */
const BY_EXTENSION: Readonly<Record<string, string>> = {
  ".md": "text/markdown",
  ".markdown": "text/markdown",
  ".html": "text/html",
  ".htm": "text/html",
  ".css": "text/css",
  ".csv": "text/csv",
  ".xml": "application/xml",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".yaml": "application/yaml",
  ".yml": "application/yaml",
  ".toml": "application/toml",
  ".sh": "application/x-sh",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".jpg": "image/jpeg",
  ".jpeg": "image/jpeg",
  ".gif": "image/gif",
  ".webp": "image/webp",
  ".pdf": "application/pdf",
  ".zip": "application/zip",
  ".gz": "application/gzip",
  ".wasm": "application/wasm",
  ".txt": "text/plain",
  ".log": "text/plain",
  ".diff": "text/x-diff",
  ".patch": "text/x-diff",
};

/** The media type that a file's name tells, if it tells one. */
export function mediaTypeOf(path: string): string | undefined {
  return BY_EXTENSION[extname(path).toLowerCase()];
}
