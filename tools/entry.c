#include "tools/cmd/commands.h"

int main(int argc, char **argv) {
    return ousac_main(argc, argv);
}
