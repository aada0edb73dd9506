import type { Icon } from "@modelcontextprotocol/server";

/**
 * Icons as data URIs, so that a client shows them without asking anybody (MCP specification, "Icons"). Each is the
 * path of a 24 by 24 drawing in strokes, which follow the text's colour where a client inlines them.
 */
function icon(path: string): Icon[] {
  const svg =
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#3b82f6" stroke-width="2" ` +
    `stroke-linecap="round" stroke-linejoin="round"><path d="${path}"/></svg>`;
  return [
    {
      src: `data:image/svg+xml;base64,${Buffer.from(svg).toString("base64")}`,
      mimeType: "image/svg+xml",
      sizes: ["any"],
    },
  ];
}

export const icons = {
  server: icon("M4 4h16v6H4zM4 14h16v6H4zM8 7h.01M8 17h.01"),
  terminal: icon("M4 6l6 6-6 6M12 18h8"),
  file: icon("M14 2H6v20h12V6zM14 2v4h4"),
  gauge: icon("M4 18a8 8 0 1 1 16 0M12 18l4-6"),
  clock: icon("M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18M12 7v5l3 3"),
  log: icon("M4 5h16M4 10h10M4 15h16M4 20h8"),
  book: icon("M4 4h7a2 2 0 0 1 1 2v14a2 2 0 0 0-1-1H4zM20 4h-7a2 2 0 0 0-1 2v14a2 2 0 0 1 1-1h7z"),
  review: icon("M12 4v8M8 8h8M8 18h8"),
};
