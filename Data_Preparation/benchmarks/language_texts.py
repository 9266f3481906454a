"""Sentences and phrases written for this benchmark, in 26 languages, by ISO 639-1 code."""

SENTENCES = {
    "en": [
        "The council met on Tuesday evening to discuss the new bridge over the river.",
        "She bought three apples and a loaf of bread at the market.",
    ],
    "de": [
        "Der Zug nach Hamburg fährt heute leider eine halbe Stunde später ab.",
        "Wir haben am Wochenende einen alten Freund in den Bergen besucht.",
    ],
    "fr": [
        "Le train pour Lyon partira avec une demi-heure de retard ce matin.",
        "Nous avons rendu visite à une vieille amie à la campagne.",
    ],
    "es": [
        "El tren a Sevilla saldrá hoy con media hora de retraso.",
        "Compramos pan, queso y manzanas en el mercado del barrio.",
    ],
    "it": [
        "Il treno per Firenze partirà oggi con mezz'ora di ritardo.",
        "Abbiamo comprato pane e formaggio al mercato del quartiere.",
    ],
    "pt": [
        "O comboio para o Porto parte hoje com meia hora de atraso.",
        "Nós comprámos pão e queijo no mercado perto de casa.",
    ],
    "nl": [
        "De trein naar Utrecht vertrekt vandaag een half uur later.",
        "We hebben brood en kaas gekocht op de markt bij ons huis.",
    ],
    "sv": [
        "Tåget till Göteborg avgår i dag en halvtimme senare än vanligt.",
        "Vi köpte bröd och ost på torget nära vårt hus.",
    ],
    "da": [
        "Toget til Aarhus afgår i dag en halv time senere end normalt.",
        "Vi købte brød og ost på torvet tæt ved vores hus.",
    ],
    "fi": [
        "Juna Tampereelle lähtee tänään puoli tuntia myöhässä.",
        "Ostimme leipää ja juustoa torilta lähellä kotiamme.",
    ],
    "pl": [
        "Pociąg do Krakowa odjedzie dzisiaj z półgodzinnym opóźnieniem.",
        "Kupiliśmy chleb i ser na targu niedaleko naszego domu.",
    ],
    "cs": [
        "Vlak do Brna dnes odjede s půlhodinovým zpožděním.",
        "Koupili jsme chléb a sýr na trhu blízko našeho domu.",
    ],
    "hu": ["A szegedi vonat ma félórás késéssel indul.", "Kenyeret és sajtot vettünk a házunk melletti piacon."],
    "ro": [
        "Trenul spre Cluj pleacă astăzi cu o jumătate de oră întârziere.",
        "Am cumpărat pâine și brânză din piața de lângă casă.",
    ],
    "tr": ["Ankara treni bugün yarım saat geç kalkacak.", "Evimizin yanındaki pazardan ekmek ve peynir aldık."],
    "ru": [
        "Поезд в Казань сегодня отправится с опозданием на полчаса.",
        "Мы купили хлеб и сыр на рынке рядом с домом.",
    ],
    "uk": [
        "Потяг до Львова сьогодні вирушить із запізненням на пів години.",
        "Ми купили хліб і сир на ринку біля нашого будинку.",
    ],
    "el": [
        "Το τρένο για τη Θεσσαλονίκη θα φύγει σήμερα με μισή ώρα καθυστέρηση.",
        "Αγοράσαμε ψωμί και τυρί από την αγορά δίπλα στο σπίτι.",
    ],
    "ar": ["سيغادر القطار إلى القاهرة اليوم متأخرا نصف ساعة.", "اشترينا الخبز والجبن من السوق القريب من البيت."],
    "he": ["הרכבת לחיפה תצא היום באיחור של חצי שעה.", "קנינו לחם וגבינה בשוק ליד הבית."],
    "hi": ["आज दिल्ली जाने वाली रेलगाड़ी आधा घंटा देर से चलेगी।", "हमने घर के पास के बाज़ार से रोटी और पनीर खरीदा।"],
    "ja": ["今日の大阪行きの電車は三十分遅れて出発します。", "家の近くの市場でパンとチーズを買いました。"],
    "ko": ["오늘 부산행 기차는 삼십 분 늦게 출발합니다.", "우리는 집 근처 시장에서 빵과 치즈를 샀습니다."],
    "zh": ["今天去上海的火车晚点半个小时出发。", "我们在家附近的市场买了面包和奶酪。"],
    "vi": ["Chuyến tàu đi Huế hôm nay khởi hành muộn nửa tiếng.", "Chúng tôi mua bánh mì và phô mai ở chợ gần nhà."],
    "id": [
        "Kereta ke Bandung hari ini berangkat terlambat setengah jam.",
        "Kami membeli roti dan keju di pasar dekat rumah.",
    ],
}
PHRASES = {
    "en": ["good morning everyone", "where is the station"],
    "de": ["guten Morgen zusammen", "wo ist der Bahnhof"],
    "fr": ["bonjour à tous", "où est la gare"],
    "es": ["buenos días a todos", "dónde está la estación"],
    "it": ["buongiorno a tutti", "dov'è la stazione"],
    "pt": ["bom dia a todos", "onde fica a estação"],
    "nl": ["goedemorgen allemaal", "waar is het station"],
    "sv": ["god morgon allihopa", "var ligger stationen"],
    "da": ["godmorgen alle sammen", "hvor ligger stationen"],
    "fi": ["hyvää huomenta kaikille", "missä on asema"],
    "pl": ["dzień dobry wszystkim", "gdzie jest dworzec"],
    "cs": ["dobré ráno všem", "kde je nádraží"],
    "hu": ["jó reggelt mindenkinek", "hol van az állomás"],
    "ro": ["bună dimineața tuturor", "unde este gara"],
    "tr": ["herkese günaydın", "istasyon nerede"],
    "ru": ["доброе утро всем", "где находится вокзал"],
    "uk": ["доброго ранку всім", "де знаходиться вокзал"],
    "el": ["καλημέρα σε όλους", "πού είναι ο σταθμός"],
    "ar": ["صباح الخير للجميع", "أين المحطة"],
    "he": ["בוקר טוב לכולם", "איפה התחנה"],
    "hi": ["सबको सुप्रभात", "स्टेशन कहाँ है"],
    "ja": ["皆さんおはようございます", "駅はどこですか"],
    "ko": ["모두 좋은 아침이에요", "역이 어디예요"],
    "zh": ["大家早上好", "车站在哪里"],
    "vi": ["chào buổi sáng mọi người", "nhà ga ở đâu"],
    "id": ["selamat pagi semuanya", "di mana stasiunnya"],
}
