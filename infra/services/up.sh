#!/bin/bash
# up.sh DIR: boots Kafka, Elasticsearch and Redis on 127.0.0.1 with their data in
# DIR, and prints where they are as NAME=VALUE once all answer (also kept in
# DIR/env; the names are in services.go). Run again, it starts only what does not
# run, on the same ports. Everything else is said on standard error.
#
# SERVICES            which to start, of "kafka elasticsearch redis"; left out, what DIR had, or all
# ES_SECURE           1: Elasticsearch wants TLS and a password; 0: it does not; left out, what DIR had, or 0
# KAFKA_PORT KAFKA_SECURE_PORT KAFKA_CONTROLLER_PORT ES_PORT ES_TRANSPORT_PORT
# REDIS_PORT REDIS_SECURE_PORT REDIS_CLUSTER_PORT REDIS_CLUSTER_BUS_PORT
#                     a port each; left out, DIR's last one or a free one
# KAFKA_HEAP ES_HEAP  maximum heaps (256m, 512m)
# SERVICES_JVM_OPTS   more options for both JVMs (-XX:TieredStopAtLevel=1: boots in half the time, slower at a peak)
# SERVICES_CACHE      where the jars are unpacked (cartwright-services in XDG_CACHE_HOME or ~/.cache, so clones share it)
# SERVICES_JAVA_HOME  Java 17 or newer (Debian's 17)
set -u
here=$(dirname "$(readlink -f "$0")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
dir=$(realpath -m "$1")
case $dir in *[[:space:],=]*) echo "up.sh: DIR must have no spaces, commas or equal signs" >&2; exit 2 ;; esac
mkdir -p "$dir"/{tls,redis,redis-cluster,kafka,elasticsearch/{config,data,logs,tmp}} || exit 1
exec 3>&1 1>&2 # standard output is for the addresses alone
exec 8>"$dir/lock"
flock 8

cache=${SERVICES_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var}/.cache}/cartwright-services}
kafka_heap=${KAFKA_HEAP:-256m} es_heap=${ES_HEAP:-512m}
read -ra jvm_opts <<<"${SERVICES_JVM_OPTS--XX:TieredStopAtLevel=1}"
unset JAVA_TOOL_OPTIONS _JAVA_OPTIONS JAVA_OPTS JAVA_HOME

# write FILE: replaces it by standard input in one step.
write() { cat >"$1.new" && mv "$1.new" "$1"; }

# --- what is wanted
all="kafka elasticsearch redis"
had=$(cat "$dir/services" 2>/dev/null)
wanted=${SERVICES:-${had:-$all}}
wanted=${wanted//,/ }
for service in $wanted; do
  processes_of "$service" >/dev/null || { echo "up.sh: no service $service; there are: $all"; exit 2; }
done
es_secure=${ES_SECURE:-$(cat "$dir/es_secure" 2>/dev/null)}
es_secure=${es_secure:-0}
wants() { [[ " $wanted " == *" $1 "* ]]; }
knows() { [[ " $had $wanted " == *" $1 "* ]]; } # DIR has it, now or before

# --- what must be installed
java_home=
for home in ${SERVICES_JAVA_HOME:-/usr/lib/jvm/java-17-openjdk-*}; do
  [ -x "$home/bin/java" ] && java_home=$home && break
done
missing=()
command -v openssl >/dev/null || missing+=(openssl)
wants redis && { command -v redis-server >/dev/null || missing+=(redis-server); }
if wants kafka || wants elasticsearch; then
  command -v curl >/dev/null || missing+=(curl)
  [ -n "$java_home" ] || missing+=(openjdk-17-jre-headless)
  [ -e "$cache/ready" ] || command -v mvn >/dev/null || missing+=(maven)
fi
if [ ${#missing[@]} != 0 ]; then
  echo "installing ${missing[*]}"
  # RUNLEVEL=1: Debian's scripts start no server of their own on the default port
  { apt-get update -q && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get install -qy --no-install-recommends "${missing[@]}"; } >/dev/null ||
    { echo "up.sh: could not install ${missing[*]}"; exit 1; }
  [ -n "$java_home" ] || for home in /usr/lib/jvm/java-17-openjdk-*; do java_home=$home; done
fi
java=$java_home/bin/java

# --- the jars, once; again when pom.xml changes or a file is not as it was brought
mkdir -p "$cache/ports" || exit 1
jars() { sha256sum <"$here/pom.xml" && (cd "$cache" && find kafka elasticsearch -type f -printf '%s %p\n' | sort); }
have_jars() { [ -e "$cache/ready" ] && cmp -s "$cache/ready" <(jars 2>/dev/null); }
bring_jars() {
  exec 9>"$cache/lock" && flock 9 || return 1
  have_jars && return
  echo "bringing the Kafka and Elasticsearch jars into $cache"
  rm -rf "$cache"/{ready,kafka,elasticsearch,markers}
  # -U -C: what failed before is asked for again, and what is not whole is no file
  mvn -B -q -U -C -f "$here/pom.xml" initialize -Dservices.cache="$cache" && jars | write "$cache/ready"
}
if wants kafka || wants elasticsearch; then
  have_jars || (bring_jars) 8>&- || { echo "up.sh: could not bring the jars"; exit 1; }
fi

# --- ports: given, or DIR's last ones, or free ones below the range outgoing connections take
answers() { (exec 7<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
find "$cache/ports" -type f -mmin +10 -delete
free() { # a port that nothing answers on, and no other up.sh has taken in the last minutes
  while :; do
    REPLY=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    (set -C && : >"$cache/ports/$REPLY") 2>/dev/null && ! answers "$REPLY" && return
  done
}
declare -A ports
while IFS='=' read -r name port; do ports[$name]=$port; done < <(cat "$dir/ports" 2>/dev/null)
ports_of() { # PROCESS
  case $1 in
    redis) echo REDIS_PORT REDIS_SECURE_PORT ;;
    redis-cluster) echo REDIS_CLUSTER_PORT REDIS_CLUSTER_BUS_PORT ;;
    kafka) echo KAFKA_PORT KAFKA_SECURE_PORT KAFKA_CONTROLLER_PORT ;;
    elasticsearch) echo ES_PORT ES_TRANSPORT_PORT ;;
  esac
}
choose_ports() { # PROCESS
  local name
  for name in $(ports_of "$1"); do
    if [ -n "${!name:-}" ]; then
      ports[$name]=${!name}
    elif [ -z "${ports[$name]:-}" ]; then
      free
      ports[$name]=$REPLY
    fi
  done
}
keep_ports() { for name in "${!ports[@]}"; do echo "$name=${ports[$name]}"; done | sort | write "$dir/ports"; }
for service in $wanted; do
  for process in $(processes_of "$service"); do choose_ports "$process"; done
done
keep_ports

started=()
fail() { # WHY LOG...
  echo "up.sh: $1"
  shift
  tail -n 20 "$@"
  stop "$dir" "${started[@]}"
  local process name
  for process in "${started[@]}"; do # the next try takes other ports
    for name in $(ports_of "$process"); do unset "ports[$name]"; done
  done
  keep_ports
  exit 1
}
launch() { # PROCESS COMMAND...: runs it in a session of its own, logging to PROCESS/log
  local process=$1
  shift
  started+=("$process")
  setsid "$@" >"$dir/$process/log" 2>&1 </dev/null 3>&- 8>&- &
  echo $! >"$dir/$process/pid"
}

# --- who may log in, and the certificates: a CA of DIR's own, and one for all servers
tls=$dir/tls
if [ ! -e "$dir/login" ]; then
  (umask 077 && printf 'user-%s\n%s\n' "$(openssl rand -hex 3)" "$(openssl rand -hex 16)" | write "$dir/login")
fi
{ read -r user && read -r password; } <"$dir/login" || exit 1
certify() (
  umask 077
  cd "$tls" || exit 1
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=cartwright test CA" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.pem &&
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=localhost" -keyout server.key -out server.csr &&
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -set_serial "0x$(openssl rand -hex 15)" -days 3650 -out server.pem -extfile <(
      echo "subjectAltName=DNS:localhost,IP:127.0.0.1"
      echo "basicConstraints=critical,CA:FALSE"
      echo "keyUsage=critical,digitalSignature"
      echo "extendedKeyUsage=serverAuth,clientAuth"
    ) && cat server.key server.pem >both.pem && : >ready
)
if [ ! -e "$tls/ready" ]; then
  certify >"$tls/log" 2>&1 || fail "certificates could not be made" "$tls/log"
fi

# --- Redis: one that listens plainly and over TLS, and a cluster of one node. They keep nothing over a restart.
start_redis() {
  (umask 077 && write "$dir/redis/redis.conf") <<P
bind 127.0.0.1
port ${ports[REDIS_PORT]}
tls-port ${ports[REDIS_SECURE_PORT]}
tls-cert-file $tls/server.pem
tls-key-file $tls/server.key
tls-ca-cert-file $tls/ca.pem
tls-auth-clients no
user $user on >$password ~* &* +@all
dir $dir/redis
set-proc-title no
save ""
appendonly no
P
  launch redis redis-server "$dir/redis/redis.conf"
}
start_redis_cluster() {
  write "$dir/redis-cluster/redis.conf" <<P
bind 127.0.0.1
port ${ports[REDIS_CLUSTER_PORT]}
cluster-enabled yes
cluster-port ${ports[REDIS_CLUSTER_BUS_PORT]}
cluster-announce-ip 127.0.0.1
cluster-config-file nodes.conf
dir $dir/redis-cluster
set-proc-title no
save ""
appendonly no
P
  launch redis-cluster redis-server "$dir/redis-cluster/redis.conf"
}

# --- Kafka: one node, broker and controller
start_kafka() {
  local k=$dir/kafka
  (umask 077 && write "$k/server.properties") <<P
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:${ports[KAFKA_CONTROLLER_PORT]}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:${ports[KAFKA_PORT]},SASL_SSL://127.0.0.1:${ports[KAFKA_SECURE_PORT]},CONTROLLER://127.0.0.1:${ports[KAFKA_CONTROLLER_PORT]}
advertised.listeners=PLAINTEXT://127.0.0.1:${ports[KAFKA_PORT]},SASL_SSL://127.0.0.1:${ports[KAFKA_SECURE_PORT]}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
listener.name.sasl_ssl.ssl.keystore.type=PEM
listener.name.sasl_ssl.ssl.keystore.location=$tls/both.pem
listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_$user="$password" user_guest="$password";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
# the user, and everybody on the plain listener, may do anything; guest may log in, and nothing else
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:$user
allow.everyone.if.no.acl.found=false
log.dirs=$k/data
num.partitions=4
# a client that makes topics by naming them would make them with the wrong partitions
auto.create.topics.enable=false
# a single broker holds the only copy of everything
default.replication.factor=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# small and quick: few internal partitions, no wait for more group members, a small cleaner buffer (128 MB is the default)
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
# a broker that was killed is taken back when its last session is over (9 s by default)
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=4194304
log.index.size.max.bytes=1048576
num.network.threads=2
num.io.threads=2
P
  write "$k/log4j2.properties" <<'P'
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.started.name = kafka.server.KafkaRaftServer
logger.started.level = info
P
  local kafka=("$java" -XX:+UseSerialGC "${jvm_opts[@]}" "-Dlog4j2.configurationFile=$k/log4j2.properties" -cp "$cache/kafka/*")
  if [ ! -e "$k/formatted" ]; then
    rm -rf "$k/data"
    "${kafka[@]}" -Xmx64m kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qg -c "$k/server.properties" \
      --add-scram "SCRAM-SHA-256=[name=$user,password=$password]" \
      --add-scram "SCRAM-SHA-512=[name=$user,password=$password]" >"$k/format.log" 2>&1 8>&- ||
      fail "Kafka's storage could not be formatted" "$k/format.log"
    : >"$k/formatted"
  fi
  launch kafka "${kafka[@]}" -Xms64m -Xmx"$kafka_heap" kafka.Kafka "$k/server.properties"
}

# --- Elasticsearch: its launcher comes back once the node has started, or failed
start_elasticsearch() {
  local e=$dir/elasticsearch
  rm -f "$e/pid"
  write "$e/config/elasticsearch.yml" <<P
cluster.name: local
node.name: local
path.data: $e/data
path.logs: $e/logs
network.host: 127.0.0.1
http.port: ${ports[ES_PORT]}
transport.port: ${ports[ES_TRANSPORT_PORT]}
discovery.type: single-node
# a nearly full disk must not make indices read-only, nor a small busy heap answer 429
cluster.routing.allocation.disk.threshold_enabled: false
indices.breaker.total.use_real_memory: false
P
  if [ "$es_secure" = 1 ]; then
    secure_elasticsearch >>"$e/config/elasticsearch.yml" || fail "Elasticsearch could not be secured"
  else
    echo "xpack.security.enabled: false" >>"$e/config/elasticsearch.yml"
  fi
  write "$e/config/jvm.options" <<P
-Xms64m
-Xmx$es_heap
-XX:+UseSerialGC
-XX:-AlwaysPreTouch
-XX:+ExitOnOutOfMemoryError
-XX:ErrorFile=$e/logs/hs_err_pid%p.log
-Djava.io.tmpdir=$e/tmp
20-:--add-modules=jdk.incubator.vector
23:-XX:CompileCommand=dontinline,java/lang/invoke/MethodHandle.setAsTypeCache
23:-XX:CompileCommand=dontinline,java/lang/invoke/MethodHandle.asTypeUncached
P
  printf '%s\n' "${jvm_opts[@]}" >>"$e/config/jvm.options"
  write "$e/config/log4j2.properties" <<'P'
status = error
appender.file.type = File
appender.file.name = file
appender.file.fileName = ${sys:es.logs.base_path}/local.log
appender.file.append = false
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}] %marker%m%n
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
P
  # It refuses to run as root. In a user namespace of its own, root is nobody to it, yet still owns DIR's files;
  # where there are no user namespaces it becomes nobody outright, who must be able to reach DIR and the cache.
  local as=() owner
  if [ "$(id -u)" = 0 ]; then
    as=(unshare --user --map-user=65534 --map-group=65534) owner=0
    "${as[@]}" true 2>/dev/null || as=(setpriv --reuid=65534 --regid=65534 --clear-groups) owner=65534
    chown -R $owner:$owner "$e"
    "${as[@]}" test -x "$es_home/bin/elasticsearch" -a -w "$e/data" ||
      fail "user nobody can't reach $cache or $e: choose others by SERVICES_CACHE and DIR"
  fi
  started+=(elasticsearch)
  ES_JAVA_HOME=$java_home ES_PATH_CONF=$e/config ES_TMPDIR=$e/tmp CLI_JAVA_OPTS=-XX:TieredStopAtLevel=1 \
    setsid "${as[@]}" "$es_home/bin/elasticsearch" -d -p "$e/pid" >"$e/logs/launcher.log" 2>&1 </dev/null 3>&- 8>&- ||
    fail "Elasticsearch did not start" "$e/logs/launcher.log" "$e/logs/local.log"
}

# secure_elasticsearch prints the settings for TLS and a login. The user is one of
# the file realm, so that nothing need be asked of a running server to make it.
secure_elasticsearch() {
  local config=$dir/elasticsearch/config salt hash
  (
    umask 077
    cp "$tls/server.pem" "$tls/server.key" "$tls/ca.pem" "$config/"
    salt=$(openssl rand -base64 32)
    hash=$(openssl kdf -binary -keylen 32 -kdfopt digest:SHA512 -kdfopt iter:10000 -kdfopt "pass:$password" \
      -kdfopt "hexsalt:$(base64 -d <<<"$salt" | od -An -v -tx1 | tr -d ' \n')" PBKDF2 | base64)
    echo "$user:{PBKDF2}10000\$$salt\$$hash" >"$config/users"
    echo "superuser:$user" >"$config/users_roles"
  ) || return
  cat <<P
xpack.security.enabled: true
xpack.security.enrollment.enabled: false
xpack.security.autoconfiguration.enabled: false
xpack.security.authc.realms.file.file.order: 0
xpack.security.http.ssl.enabled: true
xpack.security.http.ssl.certificate: server.pem
xpack.security.http.ssl.key: server.key
xpack.security.http.ssl.certificate_authorities: ca.pem
xpack.security.transport.ssl.enabled: true
xpack.security.transport.ssl.certificate: server.pem
xpack.security.transport.ssl.key: server.key
xpack.security.transport.ssl.certificate_authorities: ca.pem
P
}

# --- all answer. Each log is of this start alone, so another server on the same port is not taken for this one.
redis_answers() {
  grep -q 'Ready to accept connections' "$dir/redis/log" && [ "$(redis-cli -h 127.0.0.1 -p "${ports[REDIS_PORT]}" ping)" = PONG ]
}
redis_cluster_answers() {
  local info
  info=$(redis-cli -h 127.0.0.1 -p "${ports[REDIS_CLUSTER_PORT]}" cluster info) || return
  case $info in
    *cluster_state:ok*) ;;
    *cluster_slots_assigned:0*) redis-cli -h 127.0.0.1 -p "${ports[REDIS_CLUSTER_PORT]}" cluster addslotsrange 0 16383 && false ;;
    *) false ;;
  esac
}
kafka_answers() { grep -q 'Kafka Server started' "$dir/kafka/log" && answers "${ports[KAFKA_PORT]}" && answers "${ports[KAFKA_SECURE_PORT]}"; }
elasticsearch_answers() {
  # the login goes in by a file descriptor: what is on a command line can be seen by all
  curl -sf -m 5 --cacert "$tls/ca.pem" -K <(echo "user = \"$user:$password\"") \
    "$es_url/_cluster/health?wait_for_status=yellow&timeout=4s"
}
wait_for() { # PROCESS LOG ANSWERS
  local i
  for ((i = 0; i < 1200; i++)); do
    "$3" >/dev/null 2>&1 && return
    pid_of "$dir" "$1" >/dev/null || fail "$1 ended" "$2"
    sleep 0.1
  done
  fail "$1 did not answer within 120 s" "$2"
}

# Elasticsearch's launcher waits for its node, so it comes last.
absent() { ! pid_of "$dir" "$1" >/dev/null; }
if wants redis && absent redis; then start_redis; fi
if wants redis && absent redis-cluster; then start_redis_cluster; fi
if wants kafka && absent kafka; then start_kafka; fi
if wants elasticsearch && absent elasticsearch; then
  es_home=$(echo "$cache"/elasticsearch/elasticsearch-*)
  echo "$es_secure" >"$dir/es_secure"
  start_elasticsearch
fi
if [ "$(cat "$dir/es_secure" 2>/dev/null)" = 1 ]; then es_url=https; else es_url=http; fi
es_url=$es_url://127.0.0.1:${ports[ES_PORT]:-}
if wants redis; then
  wait_for redis "$dir/redis/log" redis_answers
  wait_for redis-cluster "$dir/redis-cluster/log" redis_cluster_answers
fi
if wants kafka; then wait_for kafka "$dir/kafka/log" kafka_answers; fi
if wants elasticsearch; then wait_for elasticsearch "$dir/elasticsearch/logs/local.log" elasticsearch_answers; fi

# --- where they are
tr ' ' '\n' <<<"$had $wanted" | grep . | sort -u | tr '\n' ' ' | write "$dir/services"
(umask 077 && {
  if knows kafka; then
    echo "KAFKA_BROKERS=127.0.0.1:${ports[KAFKA_PORT]}"
    echo "KAFKA_SECURE_BROKERS=127.0.0.1:${ports[KAFKA_SECURE_PORT]}"
  fi
  if knows elasticsearch; then echo "ELASTICSEARCH_URL=$es_url"; fi
  if knows redis; then
    echo "REDIS_ADDR=127.0.0.1:${ports[REDIS_PORT]}"
    echo "REDIS_SECURE_ADDR=127.0.0.1:${ports[REDIS_SECURE_PORT]}"
    echo "REDIS_CLUSTER_ADDRS=127.0.0.1:${ports[REDIS_CLUSTER_PORT]}"
  fi
  echo "CA_FILE=$tls/ca.pem"
  echo "SERVICES_USER=$user"
  echo "SERVICES_PASSWORD=$password"
  echo "SERVICES_DIR=$dir"
} | write "$dir/env")
cat "$dir/env" >&3
