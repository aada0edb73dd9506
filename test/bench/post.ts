import { type Agent, request } from "node:http";
import type { Workload } from "./workloads.ts";

/** Sends one request, and resolves with the body of its answer. @throws Error when its status is not 200. */
export function post(agent: Agent, url: string, { headers, body }: Workload): Promise<string> {
  return new Promise((resolve, reject) => {
    const sent = request(url, { agent, method: "POST", headers }, (response) => {
      let answer = "";
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => (answer += chunk));
      response.once("end", () => {
        if (response.statusCode === 200) resolve(answer);
        else reject(new Error(`Status ${response.statusCode}: ${answer}`));
      });
      response.once("error", reject);
    });
    sent.once("error", reject);
    sent.end(body);
  });
}
