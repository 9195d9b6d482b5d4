# ousac: `make help` lists the targets.
#
# Variables: BUILD (build directory), CC, SANITIZE (address,undefined | thread), OPT, PYTHON, FUZZ_SECONDS,
# CUDA_HOME (the CUDA Toolkit; found by nvcc on the PATH), CUDA_ARCHS (compute capabilities, such as "90").

BUILD ?= build
# One name for one folder, since what it holds depends on files by name.
override BUILD := $(patsubst $(CURDIR)/%,%,$(BUILD))
ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif
OPT ?= -O2 -g
PYTHON ?= python3
SANITIZE ?=

# No built-in rules: one of them would match our own patterns through the dependency files.
MAKEFLAGS += -r

LAYERS := formats calib profile pipeline
WARN := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
WERROR ?= -Werror
CPPFLAGS += -I. -Iinclude -I$(BUILD)/include -D_POSIX_C_SOURCE=200809L
CFLAGS_ALL = -std=c11 $(OPT) $(WARN) $(WERROR) -ffp-contract=off -fno-math-errno -pthread $(CFLAGS)
LDLIBS := -lopenblas -llapacke -lzstd -lcjson -lxxhash -lsodium -lm -ldl -pthread
ifneq ($(SANITIZE),)
CFLAGS_ALL += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=undefined
LDFLAGS += -fsanitize=$(SANITIZE)
endif

# The kernels of the CPU backend are built once per instruction set and chosen at run time.
ISAS := base avx2 avx512
ISA_FLAGS_base :=
ISA_FLAGS_avx2 := -mavx2 -mfma -mf16c
ISA_FLAGS_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512

# Every source of a folder and of its wings. Kernels are built once per instruction set, MPI's files and the page writer's for their programs alone.
sources = $(sort $(filter-out calib/backend/kernels.c calib/backend/products.c tools/mpi/% tools/doc/%,$(wildcard $(1)/*.c $(1)/*/*.c)))
objects = $(patsubst %.c,$(BUILD)/obj/%.o,$(call sources,$(1)))

FORMATS_LIB := $(BUILD)/lib/libousac_formats.a
CALIB_LIB := $(BUILD)/lib/libousac_calib.a
PROFILE_LIB := $(BUILD)/lib/libousac_profile.a
PIPELINE_LIB := $(BUILD)/lib/libousac_pipeline.a
# What a program links, upper layers first.
LIBRARY := $(PIPELINE_LIB) $(PROFILE_LIB) $(CALIB_LIB) $(FORMATS_LIB)
PROGRAM := $(BUILD)/ousac

.DEFAULT_GOAL := all
.PHONY: all
all: $(PROGRAM) cuda ## build the program, build/ousac, and with a CUDA Toolkit its plug-in

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

# Tests and benchmarks name the fields of a literal that matter to them; the others are 0.
$(BUILD)/obj/tests/%.o: WARN += -Wno-missing-field-initializers

PIC := -fPIC -fvisibility=hidden
$(BUILD)/obj/pic/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS_ALL) $(PIC) -MMD -MP -c $< -o $@

# What is compiled in a way of its own, into obj and, position-independent, into obj/pic. $(1): folder, $(2): flags.
# The reader stays C99 and free of ousac's own headers. Kernels and products are built once per instruction set;
# products may be contracted to fused multiply-adds.
define special_objects
$(BUILD)/$(1)/formats/oca.o: formats/oca.c
	@mkdir -p $$(@D)
	$$(CC) $$(CPPFLAGS) $$(READER_FLAGS) $$(CFLAGS_ALL) $(2) $$(CFLAGS) -O3 -std=c99 -Wpedantic -MMD -MP -c $$< -o $$@

$(BUILD)/$(1)/calib/backend/kernels_%.o: calib/backend/kernels.c
	@mkdir -p $$(@D)
	$$(CC) $$(CPPFLAGS) $$(CFLAGS_ALL) $(2) -O3 $$(ISA_FLAGS_$$*) -DOUSAC_ISA=$$* -MMD -MP -c $$< -o $$@

$(BUILD)/$(1)/calib/backend/products_%.o: calib/backend/products.c
	@mkdir -p $$(@D)
	$$(CC) $$(CPPFLAGS) $$(CFLAGS_ALL) $(2) -O3 -ffp-contract=fast $$(ISA_FLAGS_$$*) -DOUSAC_ISA=$$* -MMD -MP -c $$< -o $$@
endef
READER_FLAGS := -DOCA_WITH_ZSTD -DOCA_WITH_MMAP
$(eval $(call special_objects,obj,))
$(eval $(call special_objects,obj/pic,$(PIC)))
# The reader is part of what the shared library offers.
$(BUILD)/obj/pic/formats/oca.o: CFLAGS += -fvisibility=default

# Its small dense matrices are its own.
$(foreach d,obj obj/pic,$(foreach f,leading triangular,$(BUILD)/$(d)/calib/spectra/$(f).o)): OPT += -O3

$(FORMATS_LIB): $(call objects,formats)
$(CALIB_LIB): $(call objects,calib) $(foreach i,$(ISAS),$(BUILD)/obj/calib/backend/kernels_$(i).o $(BUILD)/obj/calib/backend/products_$(i).o)
$(PROFILE_LIB): $(call objects,profile)
$(PIPELINE_LIB): $(call objects,pipeline)
$(BUILD)/lib/%.a:
	@mkdir -p $(@D)
	@rm -f $@
	$(AR) rcs $@ $^

# The plot scripts are built into the program.
$(BUILD)/include/plots.h: $(sort $(wildcard plots/*.gp))
	@mkdir -p $(@D)
	awk 'BEGIN { print "static const struct { const char *name, *text; } PLOT_SCRIPTS[] = {" } \
	  FNR == 1 { name = FILENAME; gsub(/.*\/|\.gp$$/, "", name); printf "%s{\"%s\",\n", (NR > 1 ? "},\n" : ""), name } \
	  { gsub(/\\/, "&&"); gsub(/"/, "\\\\&"); printf "\"%s\\n\"\n", $$0 } END { print "}};" }' $^ > $@.part
	@mv $@.part $@

$(BUILD)/obj/tools/report/gnuplot.o: $(BUILD)/include/plots.h

# Links what a rule depends on; $(1): libraries before our own.
define link
@mkdir -p $(@D)
$(CC) $(CFLAGS_ALL) $(LDFLAGS) $^ $(1) $(LDLIBS) -o $@
endef

$(PROGRAM): $(call objects,tools) $(LIBRARY)
	$(call link,-lpng)

# --- the library that other programs link, and installation ---
VERSION := $(shell sed -n 's/^.define OUSAC_VERSION "\(.*\)"/\1/p' include/ousac/version.h)
SONAME := libousac.so.$(firstword $(subst ., ,$(VERSION)))
SHARED := $(BUILD)/lib/libousac.so.$(VERSION)
SHARED_OBJECTS := $(foreach l,$(LAYERS),$(patsubst %.c,$(BUILD)/obj/pic/%.o,$(call sources,$(l)))) \
                  $(foreach i,$(ISAS),$(BUILD)/obj/pic/calib/backend/kernels_$(i).o $(BUILD)/obj/pic/calib/backend/products_$(i).o)
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DATADIR ?= $(PREFIX)/share
DOCDIR ?= $(DATADIR)/doc/ousac

.PHONY: library
library: $(SHARED) ## build the shared library build/lib/libousac.so
# Nothing is visible but what include/ousac declares.
$(SHARED): $(SHARED_OBJECTS) include/ousac/libousac.map
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=include/ousac/libousac.map \
	  $(if $(SANITIZE),,-Wl,-z,defs) $(filter %.o,$^) $(LDLIBS) -o $@
	@ln -sf $(@F) $(@D)/$(SONAME) && ln -sf $(SONAME) $(@D)/libousac.so

# Man pages and completions, written from the option tables.
PAGES := $(BUILD)/doc/ousac.1
$(BUILD)/ousac-doc: $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tools/doc/*.c)) $(filter-out %/main.o %/entry.o,$(call objects,tools)) $(LIBRARY)
	$(call link,-lpng)
$(PAGES): $(BUILD)/ousac-doc
	@mkdir -p $(@D)
	$< man $(@D)
	for shell in bash zsh fish; do $< $$shell >$(@D)/completion.$$shell || exit 1; done
.PHONY: pages
pages: $(PAGES) ## write the man pages and the shell completions into build/doc

$(BUILD)/ousac.pc: include/ousac/ousac.pc.in include/ousac/version.h FORCE
	@mkdir -p $(@D)
	@sed -e 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@INCLUDEDIR@|$(INCLUDEDIR)|; s|@VERSION@|$(VERSION)|' $< >$@.part
	@if cmp -s $@.part $@; then rm $@.part; else mv $@.part $@; fi

.PHONY: install uninstall
install: $(PROGRAM) $(SHARED) $(PAGES) $(BUILD)/ousac.pc cuda ## install program, library, headers, pages and completions under PREFIX (below DESTDIR)
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCLUDEDIR)/ousac $(DESTDIR)$(DATADIR)/man/man1 \
	  $(DESTDIR)$(DATADIR)/bash-completion/completions $(DESTDIR)$(DATADIR)/zsh/vendor-completions \
	  $(DESTDIR)$(DATADIR)/fish/vendor_completions.d $(DESTDIR)$(DOCDIR)/formats $(DESTDIR)$(DOCDIR)/docs
	install $(PROGRAM) $(DESTDIR)$(BINDIR)/ousac
	install -m 644 $(SHARED) $(DESTDIR)$(LIBDIR)/
	ln -sf $(notdir $(SHARED)) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libousac.so
	$(if $(CUDA_PLUGIN),install -m 644 $(CUDA_PLUGIN) $(DESTDIR)$(LIBDIR)/)
	install -m 644 $(wildcard include/ousac/*.h) formats/oca.h $(DESTDIR)$(INCLUDEDIR)/ousac/
	install -m 644 $(BUILD)/ousac.pc $(DESTDIR)$(LIBDIR)/pkgconfig/
	install -m 644 $(BUILD)/doc/*.1 $(DESTDIR)$(DATADIR)/man/man1/
	install -m 644 $(BUILD)/doc/completion.bash $(DESTDIR)$(DATADIR)/bash-completion/completions/ousac
	install -m 644 $(BUILD)/doc/completion.zsh $(DESTDIR)$(DATADIR)/zsh/vendor-completions/_ousac
	install -m 644 $(BUILD)/doc/completion.fish $(DESTDIR)$(DATADIR)/fish/vendor_completions.d/ousac.fish
	install -m 644 README.md $(DESTDIR)$(DOCDIR)/
	install -m 644 $(wildcard docs/*.md) $(DESTDIR)$(DOCDIR)/docs/
	install -m 644 $(wildcard formats/*.md) $(DESTDIR)$(DOCDIR)/formats/
uninstall: ## remove what `make install` put there
	rm -f $(DESTDIR)$(BINDIR)/ousac $(DESTDIR)$(LIBDIR)/libousac.so* $(DESTDIR)$(LIBDIR)/libousac_cuda.so $(DESTDIR)$(LIBDIR)/pkgconfig/ousac.pc \
	  $(DESTDIR)$(DATADIR)/man/man1/ousac.1 $(DESTDIR)$(DATADIR)/man/man1/ousac-*.1 $(DESTDIR)$(DATADIR)/bash-completion/completions/ousac \
	  $(DESTDIR)$(DATADIR)/zsh/vendor-completions/_ousac $(DESTDIR)$(DATADIR)/fish/vendor_completions.d/ousac.fish
	rm -rf $(DESTDIR)$(INCLUDEDIR)/ousac $(DESTDIR)$(DOCDIR)

# The package for Python with the library in it, built from a staged copy.
WHEEL := $(BUILD)/wheel
.PHONY: wheel
wheel: $(SHARED) ## build the Python package with libousac.so in it into build/wheel
	rm -rf $(WHEEL) && mkdir -p $(WHEEL)/source/ousac/maps
	cp bindings/python/pyproject.toml bindings/python/setup.py $(WHEEL)/source/
	cp bindings/python/ousac/*.py $(WHEEL)/source/ousac/
	cp bindings/python/ousac/maps/*.json $(WHEEL)/source/ousac/maps/
	cp $(SHARED) $(WHEEL)/source/ousac/$(SONAME)
	cd $(WHEEL)/source && OUSAC_VERSION=$(VERSION) $(PYTHON) -m pip wheel --quiet --no-deps --no-build-isolation -w .. .

.PHONY: deb
deb: ## build the Debian packages ousac, libousac0 and libousac-dev into build/deb
	sh install-deps.sh deb
	rm -rf $(BUILD)/deb && mkdir -p $(BUILD)/deb/ousac-$(VERSION)
	git ls-files -z | xargs -0 cp --parents -t $(BUILD)/deb/ousac-$(VERSION)
	cd $(BUILD)/deb/ousac-$(VERSION) && dpkg-buildpackage -us -uc -b
	lintian --fail-on error $(BUILD)/deb/*.changes

# --- the same program for MPI jobs; `make all` does not need MPI ---
MPICC ?= mpicc
MPI_PROGRAM := $(BUILD)/ousac-mpi
MPI_OBJECTS := $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(wildcard tools/mpi/*.c))) $(filter-out %/entry.o,$(call objects,tools))
.PHONY: mpi
mpi: $(MPI_PROGRAM) ## build build/ousac-mpi, whose commands share their work over the ranks of an MPI job

# The only file that knows MPI; its headers are not ours to be warned about.
$(BUILD)/obj/tools/mpi/link.o: tools/mpi/link.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(patsubst -I%,-isystem %,$(shell $(MPICC) --showme:compile)) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

$(MPI_PROGRAM): $(MPI_OBJECTS) $(LIBRARY)
	$(call link,-lpng $(shell $(MPICC) --showme:link))

# --- the CUDA plug-in: built where there is a Toolkit, never with the sanitizers, which nvcc does not know ---
NVCC := $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc 2>/dev/null))
ifneq ($(NVCC),)
CUDA_HOME := $(patsubst %/bin/nvcc,%,$(shell readlink -f $(NVCC)))
endif
CUDA_ARCHS ?= 80 86 89 90 100 120
# A Toolkit without the libraries is none.
CUDA_FOUND := $(and $(NVCC),$(wildcard $(CUDA_HOME)/include/cublas_v2.h),$(wildcard $(CUDA_HOME)/include/cublasLt.h),$(wildcard $(CUDA_HOME)/include/cusolverDn.h))
CUDA_PLUGIN := $(if $(CUDA_FOUND),$(if $(SANITIZE),,$(BUILD)/libousac_cuda.so))
# Machine code for each, and the newest one's PTX for what comes after it.
CUDA_CODE = $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
            -gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS))
CUDA_CXX = $(CXX) $(CPPFLAGS) -std=c++17 -O2 -g -fPIC -fvisibility=hidden -Wall -Wextra -Wshadow -Wconversion $(WERROR) \
           -isystem $(CUDA_HOME)/include -MMD -MP
CUDA_KERNELS := $(patsubst %.cu,$(BUILD)/obj/%.o,$(sort $(wildcard calib/cuda/*.cu)))
CUDA_HOST := $(patsubst %.cpp,$(BUILD)/obj/%.o,$(sort $(wildcard calib/cuda/*.cpp)))
# Its own copies: nothing of the program is resolved from the plug-in, nor the reverse.
CUDA_COMMON := $(patsubst %,$(BUILD)/obj/pic/formats/%.o,status memory utf8)

.PHONY: cuda
cuda: $(CUDA_PLUGIN) ## build build/libousac_cuda.so where nvcc is found, else nothing

# Code of other architectures is other code.
CUDA_STAMP := $(BUILD)/cuda-archs
$(CUDA_STAMP): FORCE
	@mkdir -p $(@D)
	@echo '$(CUDA_ARCHS)' | cmp -s - $@ || echo '$(CUDA_ARCHS)' >$@
.PHONY: FORCE
FORCE:

$(BUILD)/obj/calib/cuda/%.o: calib/cuda/%.cu $(CUDA_STAMP)
	@mkdir -p $(@D)
	$(NVCC) $(CPPFLAGS) -std=c++17 -O3 -Werror all-warnings -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra \
	  --threads 2 $(CUDA_CODE) -MMD -MP -MF $(@:.o=.d) -c $< -o $@

$(BUILD)/obj/calib/cuda/%.o: calib/cuda/%.cpp
	@mkdir -p $(@D)
	$(CUDA_CXX) -c $< -o $@

$(BUILD)/libousac_cuda.so: $(CUDA_KERNELS) $(CUDA_HOST) $(CUDA_COMMON)
	$(CXX) -shared -Wl,-z,defs -Wl,-rpath,$(CUDA_HOME)/lib64 $^ -L$(CUDA_HOME)/lib64 -lcudart_static -lcublas -lcublasLt -lcusolver \
	  -ldl -lrt -pthread -o $@

# --- unit tests: tests/unit/<layer>/test_*.c, each a cmocka program that links its layer and those below ---
LIBS_formats := $(FORMATS_LIB)
LIBS_calib := $(CALIB_LIB) $(FORMATS_LIB)
LIBS_profile := $(PROFILE_LIB) $(CALIB_LIB) $(FORMATS_LIB)
LIBS_pipeline := $(LIBRARY)
UNIT_TESTS := $(foreach l,$(LAYERS),$(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(sort $(wildcard tests/unit/$(l)/test_*.c))))
SUPPORT_LIB := $(BUILD)/lib/libousac_test_support.a
$(SUPPORT_LIB): $(call objects,tests/support)

.SECONDARY:
.SECONDEXPANSION:
$(BUILD)/tests/unit/%: $(BUILD)/obj/tests/unit/%.o $(SUPPORT_LIB) $$(LIBS_$$(firstword $$(subst /, ,$$*)))
	$(call link,-lcmocka)

# --- plug-ins that tests open: one that works, on the CPU, and ones that must be refused ---
PLUGINS := $(patsubst tests/plugins/%.c,$(BUILD)/tests/plugins/%.so,$(sort $(wildcard tests/plugins/*.c)))
PIC_CPU := $(patsubst %,$(BUILD)/obj/pic/%.o,formats/status formats/memory formats/utf8 calib/backend/backend_cpu calib/backend/attention_cpu tests/support/strict_backend) \
           $(foreach i,$(ISAS),$(BUILD)/obj/pic/calib/backend/kernels_$(i).o $(BUILD)/obj/pic/calib/backend/products_$(i).o)

$(BUILD)/tests/plugins/strict.so: $(PIC_CPU)
$(BUILD)/tests/plugins/%.so: $(BUILD)/obj/pic/tests/plugins/%.o
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) $(if $(SANITIZE),,-Wl,-z,defs) -shared $^ -lopenblas -llapacke -lm -pthread -o $@

# The CUDA plug-in's own sources, run on the processor: see tests/gpu/emulation/README.md.
EMULATED_CUDA := $(BUILD)/tests/plugins/emulated_cuda.so
EMULATION := $(patsubst tests/gpu/emulation/%.cpp,$(BUILD)/obj/emulated/%.o,$(sort $(wildcard tests/gpu/emulation/*.cpp)))
EMULATED := $(patsubst calib/cuda/%.cu,$(BUILD)/obj/emulated/%.o,$(sort $(wildcard calib/cuda/*.cu))) \
            $(patsubst calib/cuda/%.cpp,$(BUILD)/obj/emulated/%.o,$(sort $(wildcard calib/cuda/*.cpp))) $(EMULATION)
EMULATED_CXX = $(CXX) -Itests/gpu/emulation $(CPPFLAGS) -std=c++17 $(OPT) -fPIC -fvisibility=hidden -Wall -Wextra -Wno-unknown-pragmas \
               $(WERROR) -ffp-contract=off $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer) -MMD -MP

$(BUILD)/emulated/%.cpp: calib/cuda/%.cu tests/gpu/emulation/translate.py
	@mkdir -p $(@D)
	$(PYTHON) tests/gpu/emulation/translate.py $< >$@.part
	@mv $@.part $@

$(BUILD)/obj/emulated/%.o: $(BUILD)/emulated/%.cpp
	@mkdir -p $(@D)
	$(EMULATED_CXX) -c $< -o $@

$(BUILD)/obj/emulated/%.o: calib/cuda/%.cpp
	@mkdir -p $(@D)
	$(EMULATED_CXX) -c $< -o $@

$(BUILD)/obj/emulated/%.o: tests/gpu/emulation/%.cpp
	@mkdir -p $(@D)
	$(EMULATED_CXX) -c $< -o $@

$(EMULATED_CUDA): $(EMULATED) $(CUDA_COMMON)
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS) -shared $^ -lopenblas -llapacke -pthread -o $@

tests: $(PLUGINS) $(EMULATED_CUDA)

# --- fuzz targets: replayed over their corpora by the tests, run by libFuzzer with `make fuzz` ---
FUZZ := $(patsubst tests/fuzz/fuzz_%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_REPLAYS := $(foreach f,$(FUZZ),$(BUILD)/tests/fuzz/replay_$(f))
FUZZ_SECONDS ?= 60

$(BUILD)/tests/fuzz/replay_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(BUILD)/obj/tests/fuzz/replay.o $(LIBRARY)
	$(call link,)

$(BUILD)/tests/fuzz/judge: $(BUILD)/obj/tests/fuzz/judge.o $(LIBRARY)
	$(call link,)

tests: $(BUILD)/tests/fuzz/judge

# --- programs that the interop tests call ---
INTEROP_PROGRAMS := $(patsubst tests/interop/%.c,$(BUILD)/tests/interop/%,$(sort $(wildcard tests/interop/*.c)))
$(BUILD)/tests/interop/%: $(BUILD)/obj/tests/interop/%.o $(LIBRARY)
	$(call link,)

# --- the archive for others: shared reader, example, bindings, tools of their tests, benchmark ---
READER_LIB := $(BUILD)/lib/liboca.so
EXAMPLES := $(patsubst examples/%.c,$(BUILD)/examples/%,$(sort $(wildcard examples/*.c)))
TEST_TOOLS := $(patsubst tests/tools/%.c,$(BUILD)/tests/tools/%,$(sort $(wildcard tests/tools/*.c)))

$(BUILD)/tests/tools/%: $(BUILD)/obj/tests/tools/%.o $(SUPPORT_LIB) $(LIBRARY)
	$(call link,-lcmocka)

$(READER_LIB): formats/oca.c formats/oca.h
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(READER_FLAGS) $(CFLAGS_ALL) $(LDFLAGS) -O3 -std=c99 -Wpedantic -fPIC -shared $< -lzstd -o $@

$(BUILD)/examples/%: examples/%.c formats/oca.c formats/oca.h
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(READER_FLAGS) $(CFLAGS_ALL) $(LDFLAGS) -std=c99 -Wpedantic $< formats/oca.c -lzstd -lm -o $@

.PHONY: reader
reader: $(READER_LIB) $(EXAMPLES) ## build the shared reader library build/lib/liboca.so and the examples

tests: $(READER_LIB) $(EXAMPLES) $(TEST_TOOLS)

# Where MPI is installed, its program is tested too.
ifneq ($(shell command -v $(MPICC) 2>/dev/null),)
tests: $(MPI_PROGRAM)
endif

$(BUILD)/tests/bench/%: $(BUILD)/obj/tests/bench/%.o $(LIBRARY)
	$(call link,)

.PHONY: bench-quality bench-methods bench-methods-full
# EFFORT=quick takes a third of the time; CELLS="--models tiles-dit --budgets 0.3" some of them; WRITE="--write
# docs/RESULTS.md" puts the table there.
EFFORT ?= full
bench-quality: $(PROGRAM) ## ours, fewer steps and the published methods against what is run today, four models at 20, 30, 50 % of its cost, resumable: build/bench/quality.json
	$(PYTHON) tests/bench/bench_reference.py $(PROGRAM) $(BUILD)/bench --effort $(EFFORT) $(CELLS) $(WRITE)

METHODS = $(PYTHON) tests/bench/bench_methods.py $(PROGRAM) $(MODEL) $(BUILD)/bench
MODEL ?= data/shapes-dit/model.safetensors
bench-methods: $(PROGRAM) ## every method at equal cost under one schedule, in 9 cells, resumable: build/bench/methods.json
	$(METHODS)
bench-methods-full: $(PROGRAM) ## the same in all 27 cells
	$(METHODS) --full

.PHONY: bench-scaling
bench-scaling: $(PROGRAM) $(MPI_PROGRAM) $(BUILD)/tests/bench/bench_reduce ## threads, shards, ranks, and a model of many ranks: build/bench/scaling.json
	@mkdir -p $(BUILD)/bench
	$(PYTHON) tests/bench/bench_scaling.py $(BUILD) $(BUILD)/bench/scaling.json

$(BUILD)/tests/bench/bench_reduce: $(BUILD)/obj/tests/bench/bench_reduce.o $(filter-out %/main.o %/entry.o,$(MPI_OBJECTS)) $(LIBRARY)
	$(call link,-lpng $(shell $(MPICC) --showme:link))

.PHONY: bench-archive
bench-archive: $(BUILD)/tests/bench/bench_archive ## the archive against safetensors, torch.save and zstd: size and speed
	@mkdir -p $(BUILD)/bench
	$(BUILD)/tests/bench/bench_archive $(BUILD)/bench
	$(TORCH_PYTHON) tests/bench/bench_archive.py $(BUILD)/bench

# Quick by default: synthetic models are shortened to BENCH_DEPTH blocks; BENCH_DEPTH=0 takes them whole, for the record.
BENCH_DEPTH ?= 2
.PHONY: bench
bench: $(PROGRAM) $(BUILD)/tests/bench/bench_speed $(BUILD)/tests/interop/dit_forward ## time and memory of every stage against its baselines: build/bench/speed.json
	@mkdir -p $(BUILD)/bench
	$(TORCH_PYTHON) tests/bench/bench_speed.py --build $(BUILD) --depth $(BENCH_DEPTH) -o $(BUILD)/bench/speed.json

.PHONY: bench-families
bench-families: $(PROGRAM) $(BUILD)/tests/bench/bench_speed $(BUILD)/tests/interop/inputs_forward ## blocks of PixArt and FLUX at full width beside diffusers, needs torch and diffusers: build/bench/families.json
	@mkdir -p $(BUILD)/bench
	$(TORCH_PYTHON) tests/bench/bench_families.py --build $(BUILD) --depth $(BENCH_DEPTH) -o $(BUILD)/bench/families.json

$(BUILD)/tests/bench/bench_gpu: $(patsubst %,$(BUILD)/obj/tests/bench/%.o,bench_gpu bench_gpu_attention bench_gpu_factors) $(LIBRARY)
	$(call link,)

# Calls cuSOLVER itself; on the emulation for the test of the benchmark's script.
$(BUILD)/tests/bench/bench_eigen: tests/bench/bench_eigen.cpp
	@mkdir -p $(@D)
	$(CUDA_CXX) $< -Wl,-rpath,$(CUDA_HOME)/lib64 -L$(CUDA_HOME)/lib64 -lcudart_static -lcusolver -ldl -lrt -pthread -o $@

$(BUILD)/obj/emulated/%.o: tests/bench/%.cpp
	@mkdir -p $(@D)
	$(EMULATED_CXX) -c $< -o $@

$(BUILD)/tests/bench/emulated_bench_eigen: $(BUILD)/obj/emulated/bench_eigen.o $(EMULATION)
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS) $^ -lopenblas -llapacke -pthread -o $@

tests: $(BUILD)/tests/bench/bench_gpu $(BUILD)/tests/bench/emulated_bench_eigen

.PHONY: bench-gpu
bench-gpu: $(PROGRAM) $(BUILD)/tests/bench/bench_gpu $(if $(CUDA_PLUGIN),$(BUILD)/tests/bench/bench_eigen) cuda ## a GPU: rates, forwards, profiling, factors, beside PyTorch's where it is: build/bench/gpu.json
	@mkdir -p $(BUILD)/bench
	OUSAC_CUDA_PLUGIN=$(BUILD)/libousac_cuda.so $(TORCH_PYTHON) tests/bench/bench_gpu.py --build $(BUILD) -o $(BUILD)/bench/gpu.json

$(BUILD)/tests/gpu/hog: $(BUILD)/obj/tests/gpu/kit/hog.o $(LIBRARY)
	$(call link,)

tests: $(BUILD)/tests/gpu/hog

# One architecture and its PTX, in a folder of its own: the plug-in of `make` stays what it is.
KIT_PLUGIN := $(if $(CUDA_PLUGIN),$(BUILD)/kit-cuda/libousac_cuda.so)
.PHONY: gpu-kit
gpu-kit: tests $(if $(CUDA_PLUGIN),$(BUILD)/tests/bench/bench_eigen) ## what a machine with a GPU needs where nothing may be installed: build/gpu-kit
	$(if $(KIT_PLUGIN),+$(MAKE) --no-print-directory BUILD=$(BUILD)/kit-cuda CUDA_ARCHS=90 cuda)
	BUILD=$(BUILD) DATA=data PLUGIN=$(KIT_PLUGIN) bash tests/gpu/kit/pack.sh $(BUILD)/gpu-kit

# --- what the tests run ---
# The first Python that has torch, for the comparison with PyTorch; without one that comparison is skipped and counted.
TORCH_PYTHON = $(firstword $(foreach p,$(PYTHON) /usr/bin/python3,$(shell $(p) -c 'import torch' 2>/dev/null && echo $(p))) $(PYTHON))
CLI_TESTS := $(sort $(wildcard tests/cli/test_*.sh))
GPU_TESTS := $(sort $(wildcard tests/gpu/test_*.sh))
INTEROP_TESTS := $(sort $(wildcard tests/interop/test_*.py) $(wildcard tests/interop/test_*.sh))
TEST_ENV = OUSAC=$(PROGRAM) OCA_DUMP=$(BUILD)/tests/interop/oca_dump DATA=data BUILD=$(BUILD) PYTHON=$(PYTHON) TORCH_PYTHON=$(TORCH_PYTHON) \
           ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1

.PHONY: tests
tests: $(PROGRAM) $(UNIT_TESTS) $(FUZZ_REPLAYS) $(INTEROP_PROGRAMS) ## build every test program

.PHONY: test
test: ## install what the tests need, build, and run them all
	sh install-deps.sh test
	+$(MAKE) --no-print-directory run-tests

.PHONY: run-tests
run-tests: tests cuda
	$(TEST_ENV) bash tests/run.sh $(filter-out $(SKIP),$(UNIT_TESTS) tests/fuzz/replay_all.sh tests/fuzz/grammar.py $(INTEROP_TESTS) $(CLI_TESTS) $(GPU_TESTS))

# The tests with PyTorch and diffusers, which `make test` skips where they are missing: here they come from pip into a venv of
# their own, TORCH_VENV.
TORCH_VENV ?= $(BUILD)/torch-venv
.PHONY: torch-venv
torch-venv:
	test -x $(TORCH_VENV)/bin/python || $(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -c 'import torch, diffusers, transformers, setuptools' 2>/dev/null || \
	  $(TORCH_VENV)/bin/pip install --quiet --retries 2 --timeout 30 torch diffusers transformers accelerate peft safetensors numpy setuptools wheel

.PHONY: test-torch
test-torch: tests library torch-venv ## the tests with PyTorch and diffusers, installed into build/torch-venv
	$(TEST_ENV) TORCH_PYTHON=$(abspath $(TORCH_VENV))/bin/python bash tests/run.sh $(filter tests/interop/test_torch_%.sh tests/interop/test_%_torch.sh tests/interop/test_wheel.sh,$(INTEROP_TESTS))

# The tests of the CUDA backend, which `make test` skips where there is no device, and this fails. GPU_PLUGIN: the
# plug-in to test.
GPU_PLUGIN ?= $(BUILD)/libousac_cuda.so
GPU_ENV = $(TEST_ENV) OUSAC_GPU_REQUIRED=1 OUSAC_CUDA_PLUGIN=$(GPU_PLUGIN)
GPU_REAL := tests/gpu/test_backend.sh tests/gpu/test_pipeline.sh tests/gpu/test_commands.sh

.PHONY: test-gpu
test-gpu: tests cuda ## the tests of the CUDA backend on a GPU; fails where there is none
	$(GPU_ENV) bash tests/run.sh $(BUILD)/tests/unit/calib/test_backend_plugin $(GPU_REAL)

.PHONY: test-gpu-sanitizer
test-gpu-sanitizer: tests cuda ## the operations on a GPU under compute-sanitizer: memcheck, racecheck, initcheck, synccheck
	for tool in memcheck racecheck initcheck synccheck; do \
	  $(GPU_ENV) WRAP="compute-sanitizer --tool $$tool --error-exitcode 9 --leak-check no" \
	  bash tests/gpu/test_backend.sh || exit 1; done

# Without what repeats whole calibrations or the build at length, measures memory or emulates a device, all of it covered by
# shorter tests; SKIP= runs those too.
test-asan: SKIP ?= %/test_calibrated %/test_synth tests/interop/test_install.sh tests/interop/test_rebuild.sh tests/cli/test_compare.sh tests/cli/test_extrapolate.sh tests/cli/test_memory.sh tests/cli/test_mpi.sh tests/cli/test_pipeline.sh \
                   tests/cli/test_synth.sh tests/gpu/test_bench.sh tests/gpu/test_emulated.sh tests/gpu/test_faults.sh
.PHONY: test-asan
test-asan: ## the tests under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer, in build-asan
	+$(MAKE) --no-print-directory run-tests BUILD=$(BUILD)-asan SANITIZE=address,undefined SKIP='$(SKIP)'

.PHONY: test-tsan
test-tsan: ## the tests that start threads under ThreadSanitizer, in build-tsan
	+$(MAKE) --no-print-directory threaded-tests BUILD=$(BUILD)-tsan SANITIZE=thread

# Those whose sources speak of threads: a new one that starts some is found without being named here.
THREADED_TESTS = $(patsubst %.c,$(BUILD)/%,$(shell grep -l 'thread' tests/unit/*/*.c))
.PHONY: threaded-tests
threaded-tests: $(THREADED_TESTS) $(EMULATED_CUDA)
	$(TEST_ENV) TSAN_OPTIONS=halt_on_error=1 bash tests/run.sh $(THREADED_TESTS)

# OpenBLAS's AVX-512 kernels are beyond valgrind: its plain ones and ours are chosen instead.
.PHONY: test-valgrind
test-valgrind: tests ## the small unit tests under valgrind
	$(TEST_ENV) OPENBLAS_CORETYPE=Prescott OUSAC_ISA=base WRAP='valgrind -q --error-exitcode=9 --leak-check=full' \
	bash tests/run.sh $(filter-out %/test_backend_attention_bf16 %/test_backend_plugin %/test_backend_sequence %/test_backend_weights %/test_calibrated %/test_dit %/test_allocate %/test_stats %/test_dtype %/test_synth,$(UNIT_TESTS))

# --- the demo ---
DEMO_OPTIONS := --model data/shapes-dit/model.safetensors --reference data/schedules/constant.json --budget-total 0.30 \
                --effort quick

.PHONY: demo
demo: ## install what is needed, build, and calibrate the shipped model into build/demo
	sh install-deps.sh build
	+$(MAKE) --no-print-directory -j2 $(PROGRAM)
	$(PROGRAM) calibrate $(DEMO_OPTIONS) -o $(BUILD)/demo

# --- static checks ---
SOURCES = $(filter-out calib/cuda/%,$(foreach d,include $(LAYERS) tools examples,$(wildcard $(d)/*.[ch] $(d)/*/*.[ch]))) $(shell find tests -name '*.[ch]' -not -path 'tests/gpu/emulation/*')
CUDA_SOURCES = $(wildcard calib/cuda/* tests/gpu/emulation/*.h tests/gpu/emulation/calib/cuda/*.h tests/gpu/emulation/*.cpp tests/bench/*.cpp)
SHELL_SCRIPTS = install-deps.sh .ci/run $(wildcard examples/slurm/*.sbatch) $(shell find tests -name '*.sh' -o -name '*.bash')

.PHONY: check
check: ## format, lint, layers, headers and all tests
	sh install-deps.sh check
	+$(MAKE) --no-print-directory check-format check-layers check-headers check-lint
	+$(MAKE) --no-print-directory run-tests

.PHONY: check-format
check-format: ## clang-format changes nothing
	clang-format --dry-run --Werror $(SOURCES) $(CUDA_SOURCES)

.PHONY: check-layers
check-layers: ## includes point downward only
	sh tests/check_layers.sh

.PHONY: check-headers
check-headers: ## every header compiles alone, as C11 and as C++
	for h in $(filter %.h,$(SOURCES)); do \
	  $(CC) $(CPPFLAGS) -std=c11 $(WARN) -Werror -fsyntax-only -x c $$h || exit 1; \
	  $(CXX) $(CPPFLAGS) -std=c++17 -Wall -Wextra -Werror -fsyntax-only -x c++ $$h || exit 1; done
	@echo "headers: ok"

.PHONY: check-lint
check-lint: ## cppcheck and shellcheck
	cppcheck --quiet --std=c11 --language=c --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
	  --suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches -I. -Iinclude -I$(BUILD)/include -D_POSIX_C_SOURCE=200809L -DOUSAC_ISA=base \
	  '-DcJSON_ArrayForEach(item,list)=for(item=(list)->child;item;item=item->next)' \
	  $(filter %.c,$(foreach d,$(LAYERS) tools,$(wildcard $(d)/*.c $(d)/*/*.c)))
	shellcheck -e SC1091 $(SHELL_SCRIPTS)

.PHONY: build-clang
build-clang: ## build everything with clang, in build-clang
	+$(MAKE) --no-print-directory tests CC=clang BUILD=$(BUILD)-clang

.PHONY: format
format: ## apply clang-format
	clang-format -i $(SOURCES) $(CUDA_SOURCES)

# --- fuzzing ---
.PHONY: fuzz
fuzz: ## run every fuzz target under libFuzzer for FUZZ_SECONDS each, in build-fuzz
	@for f in $(FUZZ); do $(MAKE) --no-print-directory fuzz-$$f || exit 1; done

fuzz-%: ## run one fuzz target
	+$(MAKE) --no-print-directory $(BUILD)-fuzz/fuzz_$* CC=clang BUILD=$(BUILD)-fuzz SANITIZE=address,undefined,fuzzer-no-link
	@mkdir -p $(BUILD)-fuzz/corpus/$*
	$(BUILD)-fuzz/fuzz_$* -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -timeout=10 -rss_limit_mb=2048 \
	  -artifact_prefix=$(BUILD)-fuzz/ $(BUILD)-fuzz/corpus/$* tests/fuzz/corpus/$*

# The same targets under AFL++ (Debian's afl++): coverage by its own instrumentation, in build-afl.
afl-%: ## run one fuzz target under AFL++
	+$(MAKE) --no-print-directory $(BUILD)-afl/fuzz_$* CC=afl-clang-fast BUILD=$(BUILD)-afl WERROR=
	AFL_SKIP_CPUFREQ=1 AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 AFL_NO_UI=1 afl-fuzz -i tests/fuzz/corpus/$* \
	  -o $(BUILD)-afl/out-$* -V $(FUZZ_SECONDS) -- $(BUILD)-afl/fuzz_$*

$(BUILD)/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(LIBRARY)
	$(CC) $(CFLAGS_ALL) -fsanitize=fuzzer $^ $(LDLIBS) -o $@

.PHONY: clean
clean: ## remove the build directories
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-clang $(BUILD)-fuzz $(BUILD)-afl

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
