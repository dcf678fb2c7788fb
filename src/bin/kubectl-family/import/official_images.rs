//! The official images of Docker Hub: a name alone may mean one of them, and never an image that
//! does not exist there.

/// Their names, in order.
#[rustfmt::skip]
const OFFICIAL_IMAGES: [&str; 151] = [
    "adminer", "aerospike", "almalinux", "alpine", "alt", "amazoncorretto", "amazonlinux",
    "api-firewall", "arangodb", "archlinux", "backdrop", "bash", "bonita", "buildpack-deps",
    "busybox", "caddy", "cassandra", "centos", "chronograf", "cirros", "clearlinux", "clefos",
    "clickhouse", "clojure", "composer", "consul", "convertigo", "couchbase", "couchdb", "crate",
    "dart", "debian", "docker", "drupal", "eclipse-mosquitto", "eclipse-temurin", "eggdrop",
    "elasticsearch", "elixir", "emqx", "erlang", "express-gateway", "fedora", "flink", "fluentd",
    "friendica", "gazebo", "gcc", "geonetwork", "ghost", "golang", "gradle", "groovy", "haproxy",
    "haskell", "haxe", "hitch", "httpd", "hylang", "ibm-semeru-runtimes", "ibmjava",
    "influxdb", "irssi", "java", "jetty", "jobber", "joomla", "jruby", "julia", "kapacitor",
    "kibana", "kong", "krakend", "lightstreamer", "liquibase", "logstash", "mageia", "mariadb",
    "matomo", "maven", "mediawiki", "memcached", "mongo", "mongo-express", "monica", "mono",
    "mysql", "nats", "nats-streaming", "neo4j", "neurodebian", "nextcloud", "nginx", "node",
    "notary", "odoo", "open-liberty", "openjdk", "opensuse", "oraclelinux", "orientdb", "percona",
    "perl", "photon", "php", "php-zendserver", "phpmyadmin", "plone", "postfixadmin", "postgres",
    "pypy", "python", "r-base", "rabbitmq", "rakudo-star", "redis", "redmine", "registry",
    "rethinkdb", "rocket.chat", "rockylinux", "ros", "ruby", "rust", "sapmachine", "satosa",
    "silverpeas", "solr", "sonarqube", "sourcemage", "spark", "spiped", "swarm", "swift",
    "swipl", "teamspeak", "telegraf", "thrift", "tomcat", "tomee", "traefik", "ubuntu", "unit",
    "varnish", "vault", "websphere-liberty", "wordpress", "xwiki", "yourls", "znc", "zookeeper",
];

/// Whether a name alone, as `alpine`, is that of an official image of Docker Hub.
pub fn is_official(name: &str) -> bool {
    OFFICIAL_IMAGES.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_found() {
        assert!(OFFICIAL_IMAGES.is_sorted());
        assert!(is_official("alpine") && is_official("zookeeper") && !is_official("base"));
    }
}
