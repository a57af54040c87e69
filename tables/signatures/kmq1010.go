package signatures

import (
	"encoding/json"
	"regexp"

	"github.com/kmodquery/kmodquery"
)

// services are programs that serve the network or run jobs, and load no modules.
var services = regexp.MustCompile(`^(nginx|apache2|httpd|lighttpd|caddy|php-fpm[0-9.]*|uwsgi|gunicorn|tomcat[0-9]*|mysqld|mariadbd|postgres|postmaster|mongod|` +
	`redis-server|memcached|named|exim4?|postfix|master|smtpd|dovecot|vsftpd|proftpd|smbd|slapd|cron|crond|atd|anacron)$`)

// kmq1010 returns the signature of loads that a service of the network caused.
func kmq1010() kmodquery.Signature {
	return ofLoads(kmodquery.Signature{
		Metadata: metadata("KMQ-1010", "1", "service_kernel_module", "Kernel module loaded below a service",
			"An ancestor of the loader is a web server, a database, a mail server or a scheduler of jobs. None of them loads modules, so "+
				"somebody may run commands through it.",
			kmodquery.SeverityHigh, kernelModules),
		Facts:          []string{"ancestors", "process_path", "cmdline", "uid", "auid"},
		Condition:      "The last part of the path of an ancestor is that of a known web, database, mail, name, file or job server, or is a hidden file.",
		FalsePositives: "Jobs that upgrade packages or administer the host.",
		Silence:        "signature_id = 'KMQ-1010' AND coalesce(sha256, '') = 'HASH'",
		Sigma: kmodquery.Sigma{
			Selections: matching("selection", "ancestors", ancestorIn(services), hiddenAncestor),
			Condition:  "selection",
		},
	}, func(e *kmodquery.Event) string {
		var ancestors []struct{ Path string }
		if e.Ancestors == "" || json.Unmarshal([]byte(e.Ancestors), &ancestors) != nil {
			return ""
		}
		for _, a := range ancestors {
			if base := baseOf(a.Path); services.MatchString(base) || len(base) > 1 && base[0] == '.' && base != ".." {
				return "an ancestor of the loader is " + quote(a.Path)
			}
		}
		return ""
	})
}
