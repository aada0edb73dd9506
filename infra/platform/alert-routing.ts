import type { AlertWebhook } from "../settings.ts";
import type { ChartValues } from "./chart-release.ts";

/** Where the operator mounts Secrets that `alertmanagerSpec.secrets` names, each in a directory of its name. */
const SECRETS = "/etc/alertmanager/secrets";

/** Severities of the chart's own rules that ask nobody for anything, the Watchdog's, which always fires, among them. */
const SILENT = "none|info";
/** An alert that holds is told of again. */
const REPEAT_CRITICAL = "4h";
const REPEAT = "24h";

const NOBODY = "nobody";
const WEBHOOK = "webhook";

/** Slack's default is the alert's name and labels, without what is wrong and what to do. */
const SLACK_TEXT = "{{ range .Alerts }}{{ .Annotations.summary }}\n{{ .Annotations.description }}\n\n{{ end }}";

/**
 * Alertmanager's configuration: what is told, and how often; the chart adds which alerts keep others quiet. The URL is
 * read from its Secret at every notification, so a new one needs no restart.
 *
 * Source: prometheus.io/docs/alerting/latest/configuration. Files for URLs and `msteamsv2_configs` ask for Alertmanager
 * 0.28; the chart brings 0.34.
 *
 * @param secret the Secret in Alertmanager's namespace, and its key, that hold the webhook's URL.
 */
export function alertRouting(kind: AlertWebhook["kind"], secret: { name: string; key: string }): ChartValues {
  const file = `${SECRETS}/${secret.name}/${secret.key}`;
  return {
    route: {
      receiver: WEBHOOK,
      group_by: ["namespace", "alertname"],
      group_wait: "30s",
      group_interval: "5m",
      repeat_interval: REPEAT,
      routes: [
        { receiver: NOBODY, matchers: [`severity =~ "${SILENT}"`] },
        { receiver: WEBHOOK, matchers: ['severity = "critical"'], repeat_interval: REPEAT_CRITICAL },
      ],
    },
    receivers: [{ name: NOBODY }, { name: WEBHOOK, ...receiver(kind, file) }],
  };
}

function receiver(kind: AlertWebhook["kind"], file: string): ChartValues {
  switch (kind) {
    case "json":
      return { webhook_configs: [{ url_file: file, send_resolved: true }] };
    case "slack":
      return { slack_configs: [{ api_url_file: file, send_resolved: true, text: SLACK_TEXT }] };
    case "teams":
      return { msteamsv2_configs: [{ webhook_url_file: file, send_resolved: true }] };
  }
}
