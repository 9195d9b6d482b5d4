# The schedule: guidance scale of every step and what it tells the model, below it the branches that are evaluated and their effective gates, and
# where any was fitted the coefficients of formats/SCHEDULE.md.
# Reads schedule.tsv.
if (!exists("ousac_common")) load "plots/common.gp"
file = tables."schedule.tsv"

rows = 0; guided = 0; most = 1.0; least = 0.0; reach = 0.0; told = 0
# How often each gate occurs: five of the conditional branch, then five of the other.
array gates[10] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
count_gate(g, from) = g >= 0 && g <= 4 ? (gates[from + int(g)] = gates[from + int(g)] + 1) : 0
stats file using (rows = rows + 1, guided = guided + column("guided"), \
                  most = max2(most, column("scale")), least = min2(least, column("scale"))) nooutput
is_told(g) = g == g
count_told(g) = is_told(g) ? (told = told + 1, most = max2(most, g), least = min2(least, g)) : 0
stats file using (count_told(column("guidance"))) nooutput
do for [name in "hold k m c d"] { stats file using (reach = max2(reach, abs(column(name)))) nooutput }
stats file using (count_gate(column("cond"), 1)) nooutput
stats file using (count_gate(column("uncond"), 6)) nooutput

eval start(860, reach > 0 ? 600 : 420, 34)
# Of the height, what a panel of fitted coefficients leaves to the others.
share = reach > 0 ? 0.68 : 1.0
at(y) = 1 - share * (1 - y)
if (rows == 0) {
    set xlabel "denoising step (0 is the noisiest)"; set ylabel "scale w (no unit)"
    eval say_nothing
} else {
    set multiplot
    set lmargin 12; set rmargin 3
    set xrange [-0.5:rows - 0.5]
    set xtics tic_step(rows, 25)
    set key at graph 1, graph 1.02 right bottom
    # above: the scale
    set tmargin at screen at(0.88); set bmargin at screen at(0.52)
    set yrange [least < 0 ? 1.1 * least : 0:1.15 * most]
    set ylabel "scale w (no unit)"
    set format x ""
    set boxwidth 0.9
    command = "plot "
    if (guided > 0) {
        command = command."file using 'step':(column('guided') == 1 ? column('scale') : NaN) with boxes lc rgb blue ".\
                  "title 'guided, both branches'".(guided < rows ? ", " : "")
    }
    if (guided < rows) {
        command = command."file using 'step':(column('guided') == 1 ? NaN : column('scale')) with points pt 7 ps 0.5 ".\
                  "lc rgb grey title 'one branch, w = 1".(guided == 0 ? ": no step is guided" : "")."'"
    }
    if (told > 0) {
        command = command.", file using 'step':'guidance' with linespoints pt 5 ps 0.5 lc rgb orange ".\
                  "title 'told to the model'"
    }
    eval command
    # below: one row a branch
    set tmargin at screen at(0.41); set bmargin at screen at(0.16)
    set yrange [-0.6:1.6]
    set ytics ("cond" 1, "uncond" 0)
    unset grid
    set ylabel "branch (name)"
    set xlabel "denoising step (0 is the noisiest)"
    set format x "%g"
    names = "full cached reuse extrapolate auto"
    array tints[5] = [blue, sky, orange, green, purple]
    array marks[5]
    marks[1] = "F"; marks[2] = "c"; marks[3] = "r"; marks[4] = "e"; marks[5] = "a"
    command = ""
    do for [g = 0:4] {
        first = 1
        do for [b = 0:1] {
            if (gates[1 + 5 * b + g] > 0) {
                branch = b == 0 ? "cond" : "uncond"
                titled = first ? sprintf("title '%s'", word(names, 1 + g)) : "notitle"
                first = 0
                command = command.(strlen(command) ? ", " : "plot ").sprintf(\
                    "file using 'step':(column('%s') == %d ? %d : NaN)", branch, g, 1 - b).(text ? \
                    sprintf(" with points pt '%s' ", marks[1 + g]) : \
                    sprintf(":(0.46):(0.4) with boxxyerror lc rgb %d ", tints[1 + g])).titled
            }
        }
    }
    set key at graph 1, graph 1.02 right bottom
    eval command
    # at the bottom: what was fitted
    if (reach > 0) {
        set tmargin at screen 0.29; set bmargin at screen 0.11
        set yrange [-1.1 * reach:1.1 * reach]
        set ytics auto
        set grid
        set ylabel "coefficient (no unit)"
        array lines[5] = [purple, grey, blue, orange, sky]
        plot for [i = 1:5] file using "step":word("hold k m c d", i) with linespoints pt 7 ps 0.4 lc rgb lines[i] \
             title word("hold k m c d", i)
    }
    unset multiplot
}
