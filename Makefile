# The verbs. `make` alone lists the daily ones and names the rest; each is one line because the work is in stack/ and
# loadtests/. Topics are the lines that begin with "# ---", the first one being every day's.
#
#   ENV=local     which file of environments/
#   APP=flask     which app, for restart, shell, logs and secret
#   DOCKER=no     never install or start a Docker engine
#   ENGINE=process  run without Docker and without root; `up` remembers it until `down`

ENV    ?= local
PYTHON ?= python3
PLAY   := cd ansible && PATH="$(CURDIR)/.venv/bin:$$PATH" ansible-playbook $(if $(INVENTORY),-i $(INVENTORY))
STACK  := .venv/bin/python -m stack
export GATEHOUSE_ENV := $(ENV)
ifdef ENGINE
export GATEHOUSE_ENGINE := $(ENGINE)
endif

.DEFAULT_GOAL := help
.PHONY: help new-app up dev down ps doctor logs restart shell show secret load load-headless load-key load-check tune capacity lesson compare bench matrix test check audit render reference lock deploy proof rollback releases hosts-up hosts-down test-hosts

help: ## this list                   [ALL=1: a line for each verb]
	@awk -v all='$(ALL)' -F ':.*## ' ' \
	    /^# ---/ {topic = substr($$0, 7); n++; if (all) print "\n" topic; sub(/   .*/, "", topic)} \
	    /^[a-z-]+:.*## / { \
	        if (n == 1 || all) printf "  make %-13s %s\n", $$1, $$2; \
	        else if (n) {printf "%s %s", topic == last ? "" : sprintf("\n  %-18s", topic), $$1; last = topic}} \
	    END {if (!all) print "\n\n  a line for each: make help ALL=1"}' Makefile

# --- every day

up: .venv/tools ## run the whole chain on this machine, or apply what changed
	@$(STACK) up

dev: .venv/tools ## for editing: changes show at once, tracebacks, breakpoint()
	@$(STACK) dev

new-app: .venv/tools ## a new app in apps/          NAME=orders KIND=asgi (or wsgi)
	$(if $(NAME),,$(error Type: make new-app NAME=orders KIND=asgi))$(if $(KIND),,$(error Type: make new-app NAME=$(NAME) KIND=asgi   or KIND=wsgi))
	@$(STACK) new_app -- "$$NAME" "$$KIND"

ps: .venv/tools ## each app: URL, gateway, workers, health
	@$(STACK) ps

doctor: .venv/tools ## what is wrong or runs badly here, and how to mend it
	@$(STACK) doctor

logs: .venv/tools ## follow the logs            [APP=flask] [ID=a request]
	@$(STACK) logs $(APP) $(if $(ID),--id $(ID))

restart: .venv/tools ## restart one app             APP=flask
	@$(STACK) restart $(or $(APP),$(error Type: make restart APP=flask))

shell: .venv/tools ## a shell in its container    APP=flask
	@$(STACK) shell $(or $(APP),$(error Type: make shell APP=flask))

show: .venv/tools ## every setting: value, origin, reason
	@$(STACK) show

LOAD = $(if $(USERS),--users $(USERS)) $(if $(RATE),--rate $(RATE)) $(if $(TIME),--time $(TIME)) \
       $(if $(MODEL),--model $(MODEL)) $(if $(SHAPE),--shape $(SHAPE)) $(if $(WORKERS),--workers $(WORKERS)) \
       $(if $(LOCUST),-- $(LOCUST))
load: .venv/tools ## Locust's web UI, through client -> Nginx -> gateway -> app
	@$(STACK) load $(LOAD)

test: .venv/tests ## pure, rendered, the running chain   [ALL=1: slow ones too]
	@.venv/bin/python -m pytest $(or $(T),$(if $(ALL),,-m "not long"))

down: .venv/tools ## stop it                    [VOLUMES=yes: and its data]
	@$(STACK) down $(if $(VOLUMES),--volumes)

# --- load tests

load-headless: .venv/tools ## one run and its summary     [USERS=28 RATE=7 TIME=2m]
	@$(STACK) load --headless $(LOAD)

bench: .venv/tools ## hello through every gateway, kept connections on and off
	@.venv/bin/python -m loadtests.bench

compare: .venv/tools ## two runs side by side, and what is noise   A=build/load/... B=build/load/...
	@.venv/bin/python -m loadtests.compare $(or $(A),$(error Type: make compare A=build/load/... B=build/load/...)) $(or $(B),$(error B is missing))

lesson: .venv/tools ## a 100 ms wait on sync, threads and an event loop: theory and measured
	@.venv/bin/python -m loadtests.lesson

load-check: .venv/tools ## up to which rate this machine measures rightly
	@$(STACK) load --selfcheck $(LOAD)

load-key: .venv/tools ## lets load tests see where the time goes on hosts, too
	@$(STACK) load_key

# --- worker counts

TUNE = $(if $(MIX),--mix $(MIX)) $(if $(RATE),--rate $(RATE)) $(if $(P95),--p95 $(P95)) $(if $(SECONDS),--seconds $(SECONDS))
tune: .venv/tools ## which gateway, workers and threads carry its own requests   APP=flask [APPLY=1 MIX=recorded P95=300]
	@.venv/bin/python -m loadtests.tune $(or $(APP),$(error Type: make tune APP=flask)) $(if $(APPLY),--apply) $(TUNE)

capacity: .venv/tools ## what an app carries as it is set, and what is in the way   APP=flask [P95=300]
	@.venv/bin/python -m loadtests.tune $(or $(APP),$(error Type: make capacity APP=flask)) --capacity $(TUNE)

# --- apps

secret: .venv/tools ## keep a local secret          APP=shop NAME=API_KEY
	@$(STACK) secret $(or $(APP),$(error Type: make secret APP=shop NAME=API_KEY)) $(or $(NAME),$(error Type: make secret APP=shop NAME=API_KEY))

OWN   = $(or $(GATEHOUSE_ROOT),.)/apps
LOCKS = $(if $(APP),$(OWN)/$(APP)/requirements.in,requirements/*.in compose/gateways/*/requirements.in examples/*/requirements.in $(OWN)/*/requirements.in)
lock: .venv/tests ## requirements.txt with hashes, from .in   [APP=shop: its alone]
	@for file in $(LOCKS); do \
	    [ -f "$$file" ] || { echo "error: $$file: no such file. Type: make lock, or APP=one of apps/" >&2; exit 1; }; \
	    echo "  $$file"; \
	    (cd "$$(dirname $$file)" && $(CURDIR)/.venv/bin/uv pip compile --quiet --universal --python-version 3.11 \
	        --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	        "$$(basename $$file)" -o "$$(basename $${file%.in}).txt" $(LOCK)) || exit 1; \
	done

# --- this repository

check: .venv/tests ## configuration, lint, types, format
	@.venv/bin/python -m tests.check

audit: .venv/deploy-tests .local/audit/venv ## every scanner that is installed, one table    [ONLY="gixy testssl"]
	@.venv/bin/python -m tests.audit $(ONLY)

matrix: .venv/tests ## every framework on every gateway    [ONLY="django uvicorn" ENGINE=compose]
	@.venv/bin/python -m tests.matrix.run $(ONLY)

render: .venv/tools ## write build/ENV/ and start nothing
	@$(STACK) render

reference: .venv/tools ## docs/settings.md and the editors' schemas
	@$(STACK) reference

# --- on hosts                          [INVENTORY=inventory/test  ARGS='--tags release']

deploy: .venv/deploy ## provision what is bare, and release what is written now
	@$(PLAY) deploy.yml $(ARGS)

proof: .venv/deploy .venv/tests ## a release under load: no request may fail   [ARGS='--rate 120']
	@.venv/bin/python -m loadtests.proof_fleet ansible/$(or $(INVENTORY),inventory/production) $(ARGS)

rollback: .venv/deploy ## to the good release before       [RELEASE=20261125-063501-1a2b3c4d]
	@$(PLAY) rollback.yml $(if $(RELEASE),-e release=$(RELEASE)) $(ARGS)

releases: .venv/deploy ## which there are
	@$(PLAY) releases.yml $(ARGS)

# --- test hosts

hosts-up: ## bare machines in containers, to deploy to  [HOSTS=3]
	@tests/hosts/hosts.sh up $(or $(HOSTS),3)

hosts-down: ## remove them
	@tests/hosts/hosts.sh down

test-hosts: .venv/deploy-tests ## provisioning and deploys, on such machines
	@cd ansible && PATH="$(CURDIR)/.venv/bin:$$PATH" ansible-lint --offline
	@.venv/bin/python -m pytest $(or $(T),tests/hosts)

.venv/tools: requirements/tools.txt
	@PYTHON=$(PYTHON) stack/bootstrap.sh venv .venv requirements/tools.txt && touch $@

.venv/tests: requirements/tests.txt .venv/tools
	@PYTHON=$(PYTHON) stack/bootstrap.sh venv .venv requirements/tests.txt && touch $@

.venv/deploy: requirements/deploy.txt .venv/tools
	@PYTHON=$(PYTHON) stack/bootstrap.sh venv .venv requirements/deploy.txt && touch $@

.venv/deploy-tests: requirements/deploy-tests.txt .venv/tests
	@PYTHON=$(PYTHON) stack/bootstrap.sh venv .venv requirements/deploy-tests.txt && touch $@

.local/audit/venv: requirements/audit.txt
	@PYTHON=$(PYTHON) stack/bootstrap.sh venv $@ requirements/audit.txt && touch $@
