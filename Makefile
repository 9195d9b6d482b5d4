# ousac: `make help` lists the targets.
#
# Variables: BUILD (build directory), CC, SANITIZE (address,undefined | thread), OPT, PYTHON, FUZZ_SECONDS.

BUILD ?= build
CC ?= gcc
CXX ?= g++
OPT ?= -O2 -g
PYTHON ?= python3
SANITIZE ?=

LAYERS := formats calib profile
WARN := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
WERROR ?= -Werror
CPPFLAGS += -I. -I$(BUILD)/include -D_POSIX_C_SOURCE=200809L
CFLAGS_ALL = -std=c11 $(OPT) $(WARN) $(WERROR) -ffp-contract=off -fno-math-errno -pthread $(CFLAGS)
LDLIBS := -lopenblas -llapacke -lzstd -lcjson -lxxhash -lsodium -lpng -lm -pthread
ifneq ($(SANITIZE),)
CFLAGS_ALL += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=undefined
LDFLAGS += -fsanitize=$(SANITIZE)
endif

# The kernels of the CPU backend are built once per instruction set and chosen at run time.
ISAS := base avx2 avx512
ISA_FLAGS_base :=
ISA_FLAGS_avx2 := -mavx2 -mfma -mf16c
ISA_FLAGS_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512

sources = $(sort $(filter-out calib/kernels.c,$(wildcard $(1)/*.c)))
objects = $(patsubst %.c,$(BUILD)/obj/%.o,$(call sources,$(1)))

FORMATS_LIB := $(BUILD)/lib/libousac_formats.a
CALIB_LIB := $(BUILD)/lib/libousac_calib.a
PROFILE_LIB := $(BUILD)/lib/libousac_profile.a
PROGRAM := $(BUILD)/ousac

.DEFAULT_GOAL := all
.PHONY: all
all: $(PROGRAM) ## build the program: build/ousac

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

# The reader must stay C99 and free of ousac's own headers.
$(BUILD)/obj/formats/oca.o: formats/oca.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -DOCA_WITH_ZSTD -DOCA_WITH_MMAP $(CFLAGS_ALL) -std=c99 -Wpedantic -MMD -MP -c $< -o $@

$(BUILD)/obj/calib/kernels_%.o: calib/kernels.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -O3 $(ISA_FLAGS_$*) -DOUSAC_ISA=$* -MMD -MP -c $< -o $@

$(FORMATS_LIB): $(call objects,formats)
$(CALIB_LIB): $(call objects,calib) $(foreach i,$(ISAS),$(BUILD)/obj/calib/kernels_$(i).o)
$(PROFILE_LIB): $(call objects,profile)
$(BUILD)/lib/%.a:
	@mkdir -p $(@D)
	@rm -f $@
	$(AR) rcs $@ $^

$(PROGRAM): $(call objects,tools) $(PROFILE_LIB) $(CALIB_LIB) $(FORMATS_LIB)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) $^ $(LDLIBS) -o $@

# --- unit tests: tests/unit/<layer>/test_*.c, each a cmocka program that links its layer and those below ---
LIBS_formats := $(FORMATS_LIB)
LIBS_calib := $(CALIB_LIB) $(FORMATS_LIB)
LIBS_profile := $(PROFILE_LIB) $(CALIB_LIB) $(FORMATS_LIB)
UNIT_TESTS := $(foreach l,$(LAYERS),$(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(sort $(wildcard tests/unit/$(l)/test_*.c))))
SUPPORT_OBJECTS := $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(wildcard tests/support/*.c)))

.SECONDEXPANSION:
$(BUILD)/tests/unit/%: $(BUILD)/obj/tests/unit/%.o $(SUPPORT_OBJECTS) $$(LIBS_$$(firstword $$(subst /, ,$$*)))
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) $^ -lcmocka $(LDLIBS) -o $@

.PHONY: clean
clean: ## remove the build directory
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
